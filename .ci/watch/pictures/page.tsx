// A dashboard as Grafana lays it out, drawn with Grafana's components.
import { createTheme, dateTime, DataFrame, FieldDisplay, getDisplayValueAlignmentFactors, ThemeContext, TimeRange } from "@grafana/data";
import { LegendDisplayMode } from "@grafana/schema";
import { BigValue, Icon, BigValueColorMode, BigValueGraphMode, BigValueTextMode, GlobalStyles, PanelChrome, TimeSeries } from "@grafana/ui";
import { createRoot } from "react-dom/client";
import "uplot/dist/uPlot.min.css";
import { frames, Panel, Query } from "./data";

type Input = {
  dashboard: { title: string; panels: Panel[]; templating: { list: { name: string; label: string }[] } };
  from: number;
  to: number;
  step: number;
  found: Record<string, Query[]>;
};

// Grafana's grid.
const COLUMNS = 24;
const CELL = 30;
const GAP = 8;
const WIDTH = 1600 - 2 * 16;

const theme = createTheme({ colors: { mode: "light" } });

function place({ gridPos: { x, y, w, h } }: Panel) {
  const column = (WIDTH + GAP) / COLUMNS;
  return { left: x * column, top: y * (CELL + GAP), width: w * column - GAP, height: h * (CELL + GAP) - GAP };
}

function Graph({ data, range, width, height }: { data: DataFrame[]; range: TimeRange; width: number; height: number }) {
  return (
    <TimeSeries
      frames={data}
      timeRange={range}
      timeZone="utc"
      width={width}
      height={height}
      legend={{ displayMode: LegendDisplayMode.List, placement: "bottom", showLegend: true, calcs: [] }}
    />
  );
}

function Numbers({ data, width, height }: { data: DataFrame[]; width: number; height: number }) {
  const values = data.map((frame) => {
    const field = frame.fields[1];
    return { ...field.display!(field.values.findLast((value) => value !== null)), title: field.state!.displayName! };
  });
  return (
    <div style={{ display: "flex", gap: GAP }}>
      {values.map((value) => (
        <BigValue
          key={value.title}
          value={value}
          alignmentFactors={getDisplayValueAlignmentFactors(values.map((display) => ({ display })) as FieldDisplay[])}
          theme={theme}
          width={(width - GAP * (values.length - 1)) / values.length}
          height={height}
          colorMode={BigValueColorMode.Value}
          graphMode={BigValueGraphMode.None}
          textMode={BigValueTextMode.ValueAndName}
        />
      ))}
    </div>
  );
}

function Nothing({ panel, width, height }: { panel: Panel; width: number; height: number }) {
  return (
    <div className="nothing" style={{ width, height }}>
      {panel.fieldConfig?.defaults.noValue ?? "No data"}
    </div>
  );
}

function One({ panel, input, range, times }: { panel: Panel; input: Input; range: TimeRange; times: number[] }) {
  const { left, top, width, height } = place(panel);
  if (panel.type === "row") {
    return (
      <div className="row" style={{ left, top, width, height }}>
        <Icon name="angle-down" /> {panel.title}
      </div>
    );
  }
  const data = frames(panel, input.found[panel.id], times, theme);
  const empty = data.every((frame) => frame.fields[1].values.every((value) => value === null));
  return (
    <div className="panel" style={{ left, top, width, height }} data-empty={empty} data-title={panel.title}>
      <PanelChrome title={panel.title} width={width} height={height}>
        {(inner, outer) =>
          empty ? (
            <Nothing panel={panel} width={inner} height={outer} />
          ) : panel.type === "stat" ? (
            <Numbers data={data} width={inner} height={outer} />
          ) : (
            <Graph data={data} range={range} width={inner} height={outer} />
          )
        }
      </PanelChrome>
    </div>
  );
}

function Head({ input }: { input: Input }) {
  const clock = (seconds: number) => new Date(seconds * 1000).toISOString().slice(0, 16).replace("T", " ");
  return (
    <div className="head">
      <h1>{input.dashboard.title}</h1>
      {input.dashboard.templating.list.map((variable) => (
        <span className="variable" key={variable.name}>
          <b>{variable.label}</b>
          <span>{variable.name === "datasource" ? "Prometheus" : "All"}</span>
        </span>
      ))}
      <span className="time">
        {clock(input.from)} to {clock(input.to)} UTC
      </span>
    </div>
  );
}

function Dashboard({ input }: { input: Input }) {
  const range = (() => {
    const [from, to] = [dateTime(input.from * 1000), dateTime(input.to * 1000)];
    return { from, to, raw: { from, to } };
  })();
  const times: number[] = [];
  for (let at = input.from; at <= input.to; at += input.step) times.push(at * 1000);
  const height = Math.max(...input.dashboard.panels.map((panel) => place(panel).top + place(panel).height));
  return (
    <ThemeContext.Provider value={theme}>
      <GlobalStyles hackNoBackdropBlur={false} isExtensionSidebarOpen={false} />
      <Head input={input} />
      <div className="grid" style={{ height }}>
        {input.dashboard.panels.map((panel) => (
          <One key={panel.id} panel={panel} input={input} range={range} times={times} />
        ))}
      </div>
    </ThemeContext.Provider>
  );
}

declare global {
  interface Window {
    draw(input: Input): void;
  }
}

window.draw = (input) => createRoot(document.getElementById("root")!).render(<Dashboard input={input} />);
