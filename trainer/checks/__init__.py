"""Is a space, a file of records, an exported network what it says it is?"""
