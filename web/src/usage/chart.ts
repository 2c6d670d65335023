// The chart of the usage page. Fetched only when that page is opened.

import uPlot from "uplot";
import "uplot/dist/uPlot.min.css";

export interface Series {
  readonly days: readonly string[];
  /** Heights of the bars. Money arrives here as a drawing's coordinate only; every figure that is read is exact. */
  readonly heights: readonly number[];
  readonly unit: string;
}

const HEIGHT_PX = 220;
const HALF_DAY_S = 43_200;

/** Draws into `target` until the returned function is called. */
export function drawChart(target: HTMLElement, { days, heights, unit }: Series): () => void {
  const style = getComputedStyle(target);
  const color = (name: string): string => style.getPropertyValue(name).trim();
  const axis: uPlot.Axis = { stroke: color("--soft"), grid: { stroke: color("--line"), width: 1 }, ticks: { stroke: color("--line"), width: 1 } };
  const bars = uPlot.paths.bars?.({ size: [0.7, 40] });
  const chart = new uPlot(
    {
      width: target.clientWidth,
      height: HEIGHT_PX,
      tzDate: (seconds) => uPlot.tzDate(new Date(seconds * 1000), "Etc/UTC"),
      cursor: { drag: { x: false, y: false } },
      legend: { show: true },
      // Half a day on each side, so that the first and the last bar are whole.
      scales: { x: { range: (_, min, max) => [min - HALF_DAY_S, max + HALF_DAY_S] }, y: { range: (_, __, max) => [0, max > 0 ? max * 1.1 : 1] } },
      axes: [{ ...axis, values: "{MM}-{DD}", incrs: [1, 2, 5, 10, 30, 60].map((days) => days * 2 * HALF_DAY_S) }, { ...axis, size: 70 }],
      series: [{ label: "Day", value: "{YYYY}-{MM}-{DD}" }, { label: unit, stroke: color("--accent"), fill: color("--accent-ground"), width: 1, ...(bars ? { paths: bars } : {}), points: { show: false } }],
    },
    [days.map((day) => Date.parse(`${day}T00:00:00Z`) / 1000), heights.map((height) => (height === 0 ? null : height))],
    target,
  );
  const resized = new ResizeObserver(() => chart.setSize({ width: target.clientWidth, height: HEIGHT_PX }));
  resized.observe(target);
  return () => {
    resized.disconnect();
    chart.destroy();
  };
}
