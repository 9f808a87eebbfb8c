// Numbers as people read them. A non-breaking thin space stands between number and unit.
const THIN = "\u202f";

export const ms = (value) => value.toFixed(value >= 100 ? 1 : value >= 1 ? 2 : 3);
export const percent = (value) => value.toFixed(2);
export const withUnit = (text, unit) => `${text}${THIN}${unit}`;

/** Three or so significant digits: 1234, 266.5, 5.65, 0.123. */
export const amount = (value) =>
  value >= 1000 ? value.toFixed(0) : value >= 100 ? value.toFixed(1) : value >= 1 ? value.toFixed(2) : value.toFixed(3);

/** A budget as it is typed: at most 3 decimals, none that say nothing. */
export const typed = (value) => String(Math.round(value * 1000) / 1000);

/** 0.95 as "95". */
export const coverage = (value) => String(Math.round(value * 1000) / 10);

/** A fraction of 1 without its leading zero being lost: 0.970. */
export const fraction = (value) => value.toFixed(3);
