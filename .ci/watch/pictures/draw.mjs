// Draws the dashboards with what collect.py found: node draw.mjs FOLDER OUT writes OUT/dashboard-NAME.png for each.
import { build } from "esbuild";
import fs from "node:fs";
import os from "node:os";
import path from "node:path";
import { chromium } from "playwright-core";

const HERE = import.meta.dirname;
const GRAFANA = path.join(HERE, "../../../deploy/grafana");
const [folder, out] = process.argv.slice(2);
const FLAGS = ["--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"];

async function bundle() {
  const page = path.join(folder, "page");
  await build({
    entryPoints: [path.join(HERE, "page.tsx")],
    outfile: path.join(page, "page.js"),
    bundle: true,
    format: "esm",
    jsx: "automatic",
    define: { "process.env.NODE_ENV": '"production"', global: "window" },
    loader: { ".svg": "dataurl", ".png": "dataurl", ".woff2": "dataurl", ".ttf": "empty" },
    logLevel: "error",
  });
  fs.copyFileSync(path.join(HERE, "page.html"), path.join(page, "page.html"));
  return page;
}

const ICONS = path.join(HERE, "node_modules/@grafana/ui/dist/public/img/icons");

function fileOf(url, page) {
  const { pathname } = new URL(url);
  const [, icon] = pathname.match(/\/img\/icons\/([\w-]+\/[\w-]+\.svg)$/) ?? [];
  return icon ? path.join(ICONS, icon) : path.join(page, path.basename(pathname));
}

/** The files of the page and its icons, and nothing else: no request leaves the machine. */
async function serve(context, page) {
  await context.route("**/*", (route) => {
    const file = fileOf(route.request().url(), page);
    return fs.existsSync(file) ? route.fulfill({ path: file }) : route.fulfill({ status: 404 });
  });
}

/** The first three rows of the overview, for the README. */
async function drawTop(page) {
  const height = await page.$$eval(".row", (rows) => Math.floor(rows[3].getBoundingClientRect().top));
  await page.screenshot({ path: path.join(out, "dashboard-overview-top.png"), fullPage: true, clip: { x: 0, y: 0, width: 1600, height } });
}

async function draw(context, name, data) {
  const dashboard = JSON.parse(fs.readFileSync(path.join(GRAFANA, `${name}.json`)));
  const page = await context.newPage();
  const errors = [];
  page.on("pageerror", (error) => errors.push(String(error)));
  await page.goto("http://pictures.invalid/page.html");
  await page.waitForFunction(() => window.draw);
  await page.evaluate((input) => window.draw(input), { ...data, dashboard, found: data.found[name] });
  const panels = dashboard.panels.filter((panel) => panel.type !== "row").length;
  await page.waitForFunction((panels) => document.querySelectorAll(".panel").length === panels, panels);
  await page.waitForFunction(() => {
    const graphs = [...document.querySelectorAll(".panel[data-empty=false]")].filter((one) => one.querySelector(".uplot, canvas"));
    return graphs.every((one) => one.querySelector("canvas")?.width > 0);
  });
  await page.evaluate(() => document.fonts.ready);
  await page.waitForTimeout(1000);
  const empty = await page.$$eval(".panel[data-empty=true]", (all) => all.map((one) => one.dataset.title));
  await page.screenshot({ path: path.join(out, `dashboard-${name}.png`), fullPage: true });
  if (name === "overview") await drawTop(page);
  if (errors.length) throw new Error(`${name}: ${errors.join("\n")}`);
  console.log(`${name}: ${panels} panels, empty: ${empty.join(", ") || "none"}`);
  await page.close();
}

const data = JSON.parse(fs.readFileSync(path.join(folder, "data.json")));
const page = await bundle();
const profile = fs.mkdtempSync(path.join(os.tmpdir(), "pictures-"));
const context = await chromium.launchPersistentContext(profile, {
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  headless: true,
  chromiumSandbox: false,
  args: FLAGS,
  viewport: { width: 1600, height: 1000 },
});
try {
  await serve(context, page);
  for (const name of Object.keys(data.found)) await draw(context, name, data);
} finally {
  await context.close();
  fs.rmSync(profile, { recursive: true, force: true });
}
