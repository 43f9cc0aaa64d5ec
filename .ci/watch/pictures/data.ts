// From what Prometheus has found to the frames that Grafana's components draw.
import {
  DataFrame,
  Field,
  FieldColorModeId,
  FieldConfig,
  FieldType,
  GrafanaTheme2,
  getDisplayProcessor,
  createDataFrame,
} from "@grafana/data";

export type Query = {
  legendFormat: string;
  series: { metric: Record<string, string>; values: [number, string][] }[];
};
export type Panel = {
  id: number;
  type: string;
  title: string;
  description?: string;
  gridPos: { x: number; y: number; w: number; h: number };
  fieldConfig?: { defaults: FieldConfig };
};

// Grafana's defaults for a graph, which a dashboard need not name.
const GRAPH = {
  axisPlacement: "auto",
  axisBorderShow: false,
  drawStyle: "line",
  gradientMode: "none",
  hideFrom: { legend: false, tooltip: false, viz: false },
  lineInterpolation: "linear",
  pointSize: 5,
  scaleDistribution: { type: "linear" },
  spanNulls: false,
  stacking: { mode: "none", group: "A" },
  thresholdsStyle: { mode: "off" },
};

function legend(format: string, metric: Record<string, string>) {
  return format.replace(/\{\{\s*(\w+)\s*\}\}/g, (_, label) => metric[label] ?? "");
}

/** One value for each step of the time; null where there was none. */
function aligned(values: [number, string][], times: number[]) {
  const by_time = new Map(values.map(([at, value]) => [at * 1000, Number(value)]));
  return times.map((at) => {
    const value = by_time.get(at);
    return value === undefined || Number.isNaN(value) ? null : value;
  });
}

export function frames(panel: Panel, queries: Query[], times: number[], theme: GrafanaTheme2): DataFrame[] {
  const made: DataFrame[] = [];
  for (const query of queries) {
    for (const one of query.series) {
      const name = legend(query.legendFormat, one.metric);
      const config: FieldConfig = {
        color: { mode: panel.type === "stat" ? FieldColorModeId.Thresholds : FieldColorModeId.PaletteClassic },
        ...panel.fieldConfig?.defaults,
        custom: { ...GRAPH, ...panel.fieldConfig?.defaults.custom },
        displayNameFromDS: name,
      };
      const value: Field = { name: "Value", type: FieldType.number, config, labels: one.metric, values: aligned(one.values, times) };
      value.state = { displayName: name, seriesIndex: made.length };
      value.display = getDisplayProcessor({ field: value, theme });
      const time: Field = { name: "Time", type: FieldType.time, config: {}, values: times };
      time.display = getDisplayProcessor({ field: time, theme });
      made.push({ ...createDataFrame({ fields: [] }), fields: [time, value], length: times.length });
    }
  }
  return made;
}
