// What the height of the chart means: accuracy in percent, or the metric that a bundle's records measure instead.
// A height rises as networks get better, so that of a metric to minimise is its negative.

import { percent, withUnit } from "./format.js";

const STEPS = 50; // of a metric's measured range: one of them is worth asking the price of

/** Of a bundle as `GET /bundles` describes it. */
export function qualityOf(bundle) {
  const metric = bundle.accuracy?.metric;
  if (!metric?.column) {
    const name = metric === "accuracy" ? "accuracy" : "top-1";
    return make({ name, unit: "%", sign: 1, number: percent, step: 0.1, heightOf: (top1_percent) => top1_percent });
  }
  const { name, unit, goal, worst, best } = metric;
  const sign = goal === "minimise" ? -1 : 1;
  return make({
    name,
    unit,
    sign,
    number: (height) => significant(sign * height, 4),
    step: Number(significant(Math.abs(best - worst) / STEPS, 1)),
    // models/metric.py: y = -log(1 - score) is linear in the metric, 1 at the worst record and 3 at the best.
    heightOf: (score_percent) => {
      const y = -Math.log1p(-Math.min(score_percent / 100, 1 - 1e-12));
      return sign * (worst + ((y - 1) / 2) * (best - worst));
    },
  });
}

function make(quality) {
  const { name, unit, number, step, heightOf } = quality;
  const text = (height) => (unit ? withUnit(number(height), unit) : number(height));
  return {
    ...quality,
    text,
    spoken: (height) => (unit === "%" ? `${number(height)} percent ${name}` : `${name} ${text(height)}`),
    title: unit ? `${name}, ${unit}` : name,
    /** A difference of two heights. */
    gap: (heights) => (unit === "%" ? text(heights) : withUnit(significant(Math.abs(heights), 2), unit).trim()),
    stepText: unit ? withUnit(String(step), unit) : String(step),
    /** `predicted` of an answer, with heights beside its scores. */
    lift: (predicted) => ({
      ...predicted,
      height: heightOf(predicted.top1_percent),
      heights: predicted.top1_interval_percent?.map(heightOf) ?? null,
    }),
    /** The ends of an interval of heights, the smaller number first. */
    range: (heights) =>
      heights
        .map(number)
        .sort((a, b) => a - b)
        .join("–"),
  };
}

const significant = (value, digits) => String(Number(value.toPrecision(digits)));
