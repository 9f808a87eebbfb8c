"""PNAG under one name: `pnag.models`, `pnag.trainer`, `pnag.service`, `pnag.cli`, `pnag.bench`.

The rooms are links to the folders of the same name at the root of the repository; a wheel holds them as plain folders.
"""
