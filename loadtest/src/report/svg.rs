//! Line charts as SVG. Pure.

use std::fmt::Write as _;

/// A chart with one y axis.
pub(crate) struct Chart<'a> {
    pub(crate) title: &'a str,
    pub(crate) x_label: &'a str,
    pub(crate) y_label: &'a str,
    pub(crate) series: Vec<Series>,
    /// Vertical lines: their places and labels.
    pub(crate) marks: Vec<(f64, String)>,
    /// True if the y axis is logarithmic; lower values are drawn at its lowest value.
    pub(crate) log_y: bool,
    /// Labels of the x axis in place of its numbers.
    pub(crate) x_ticks: Option<Vec<(f64, String)>>,
}

#[derive(Clone)]
pub(crate) struct Series {
    pub(crate) name: String,
    /// Pairs of x and y, in the order of x; a point without y breaks the line.
    pub(crate) points: Vec<(f64, Option<f64>)>,
    pub(crate) dashed: bool,
}

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 300.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 28.0;
const TOP: f64 = 34.0;
const BOTTOM: f64 = 62.0;
const COLOURS: [&str; 8] = ["#1f6fb4", "#d9541e", "#2a9d4a", "#8a4fb0", "#b58900", "#0f8b8d", "#c2185b", "#666666"];

struct Axes {
    x: (f64, f64),
    y: (f64, f64),
    log_y: bool,
}

impl Axes {
    fn x(&self, x: f64) -> f64 {
        LEFT + (x - self.x.0) / (self.x.1 - self.x.0) * (WIDTH - LEFT - RIGHT)
    }

    fn y(&self, y: f64) -> f64 {
        let (low, high) = self.y;
        let part = if self.log_y {
            (y.max(low).log10() - low.log10()) / (high.log10() - low.log10())
        } else {
            (y - low) / (high - low)
        };
        HEIGHT - BOTTOM - part * (HEIGHT - TOP - BOTTOM)
    }
}

impl Chart<'_> {
    pub(crate) fn to_svg(&self) -> String {
        let mut svg = String::new();
        // Writing to a string does not fail.
        let _ = self.write(&mut svg);
        svg
    }

    fn write(&self, to: &mut String) -> std::fmt::Result {
        let axes = self.axes();
        writeln!(to, r#"<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" xmlns="http://www.w3.org/2000/svg">"#)?;
        writeln!(to, r#"<text x="{LEFT}" y="18" class="title">{}</text>"#, escape(self.title))?;
        self.grid(to, &axes)?;
        let marks: Vec<_> = self.marks.iter().map(|(x, label)| (axes.x(*x), label.as_str())).collect();
        let bottom = HEIGHT - BOTTOM;
        for (x, _) in &marks {
            writeln!(to, r#"<line x1="{x:.1}" y1="{TOP}" x2="{x:.1}" y2="{bottom}" class="mark"/>"#)?;
        }
        for ((_, label), (x, y)) in marks.iter().zip(label_places(&marks)) {
            writeln!(
                to,
                r#"<text x="{x:.1}" y="{y:.1}" class="mark-label" transform="rotate(90 {x:.1} {y:.1})" dy="-3" dx="4">{}</text>"#,
                escape(label)
            )?;
        }
        for (number, series) in self.series.iter().enumerate() {
            let colour = COLOURS[number % COLOURS.len()];
            let dash = if series.dashed { r#" stroke-dasharray="5 4""# } else { "" };
            writeln!(to, r#"<path d="{}" fill="none" stroke="{colour}"{dash}/>"#, path(&series.points, &axes))?;
        }
        self.legend(to)?;
        writeln!(to, "</svg>")
    }

    /// The ranges of the axes. A linear y axis begins at 0.
    fn axes(&self) -> Axes {
        let points = || self.series.iter().flat_map(|series| &series.points);
        let marks = self.marks.iter().map(|(x, _)| *x);
        let x = bounds(points().map(|(x, _)| *x).chain(marks)).unwrap_or((0.0, 1.0));
        let y = bounds(points().filter_map(|(_, y)| *y)).unwrap_or((0.0, 1.0));
        let x = if x.0 == x.1 { (x.0, x.0 + 1.0) } else { x };
        let y = if self.log_y {
            let low = 10f64.powf(y.0.max(1e-3).log10().floor());
            (low, 10f64.powf(y.1.max(low * 1.001).log10().ceil()).max(low * 10.0))
        } else {
            (0.0, if y.1 > 0.0 { y.1 * 1.08 } else { 1.0 })
        };
        Axes { x, y, log_y: self.log_y }
    }

    fn grid(&self, to: &mut String, axes: &Axes) -> std::fmt::Result {
        let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
        let y_ticks = if self.log_y { log_ticks(axes.y) } else { linear_ticks(axes.y, 5) };
        for tick in y_ticks {
            let y = axes.y(tick);
            writeln!(to, r#"<line x1="{LEFT}" y1="{y:.1}" x2="{right}" y2="{y:.1}" class="grid"/>"#)?;
            writeln!(
                to,
                r#"<text x="{:.1}" y="{:.1}" class="tick" text-anchor="end">{}</text>"#,
                LEFT - 6.0,
                y + 4.0,
                short(tick)
            )?;
        }
        let numbers = || linear_ticks(axes.x, 8).into_iter().map(|tick| (tick, short(tick))).collect();
        for (tick, label) in self.x_ticks.clone().unwrap_or_else(numbers) {
            let x = axes.x(tick);
            writeln!(
                to,
                r#"<text x="{x:.1}" y="{:.1}" class="tick" text-anchor="middle">{}</text>"#,
                bottom + 15.0,
                escape(&label)
            )?;
        }
        writeln!(
            to,
            r#"<text x="{right}" y="{:.1}" class="tick" text-anchor="end">{}</text>"#,
            bottom + 30.0,
            escape(self.x_label)
        )?;
        let middle = (TOP + bottom) / 2.0;
        writeln!(
            to,
            r#"<text x="14" y="{middle}" class="tick" text-anchor="middle" transform="rotate(-90 14 {middle})">{}</text>"#,
            escape(self.y_label)
        )
    }

    fn legend(&self, to: &mut String) -> std::fmt::Result {
        let (mut x, y) = (LEFT, HEIGHT - 12.0);
        for (number, series) in self.series.iter().enumerate() {
            let colour = COLOURS[number % COLOURS.len()];
            writeln!(to, r#"<rect x="{x:.0}" y="{:.0}" width="12" height="4" fill="{colour}"/>"#, y - 6.0)?;
            writeln!(to, r#"<text x="{:.0}" y="{y:.0}" class="tick">{}</text>"#, x + 16.0, escape(&series.name))?;
            x += 30.0 + 6.5 * series.name.chars().count() as f64;
        }
        Ok(())
    }
}

/// The places of the labels, which run downwards. Labels of close marks are put below each other, or on the other side
/// of the line.
fn label_places(marks: &[(f64, &str)]) -> Vec<(f64, f64)> {
    const ACROSS: f64 = 11.0;
    let room = HEIGHT - BOTTOM - TOP;
    let mut taken: Vec<(f64, f64, f64)> = Vec::new();
    for (line, label) in marks {
        let length = (8.0 + 5.5 * label.chars().count() as f64).min(room);
        let free = [0.0, -14.0, 14.0, -28.0].into_iter().find_map(|beside| {
            let (x, mut top) = (line + beside, TOP);
            let over = |top: f64, &(other, from, to): &(f64, f64, f64)| {
                (other - x).abs() < ACROSS && from < top + length && top < to
            };
            while let Some((_, _, to)) = taken.iter().find(|place| over(top, place)) {
                top = *to;
            }
            (top + length <= TOP + room).then_some((x, top))
        });
        let (x, top) = free.unwrap_or((*line, TOP));
        taken.push((x, top, top + length));
    }
    taken.into_iter().map(|(x, top, _)| (x, top)).collect()
}

fn path(points: &[(f64, Option<f64>)], axes: &Axes) -> String {
    let mut path = String::new();
    let mut pen_down = false;
    for (x, y) in points {
        if let Some(y) = y {
            let _ = write!(path, "{}{:.1} {:.1} ", if pen_down { 'L' } else { 'M' }, axes.x(*x), axes.y(*y));
        }
        pen_down = y.is_some();
    }
    path
}

fn bounds(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    values.fold(None, |bounds, value| {
        let (low, high) = bounds.unwrap_or((value, value));
        Some((value.min(low), value.max(high)))
    })
}

fn linear_ticks((low, high): (f64, f64), about: usize) -> Vec<f64> {
    let rough = (high - low) / about as f64;
    let size = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|part| part * size).find(|step| *step >= rough).unwrap_or(rough);
    let first = (low / step).ceil() as i64;
    (first..).map(|number| number as f64 * step).take_while(|tick| *tick <= high + step * 1e-9).collect()
}

fn log_ticks((low, high): (f64, f64)) -> Vec<f64> {
    let (low, high) = (low.log10().round() as i32, high.log10().round() as i32);
    (low..=high).map(|power| 10f64.powi(power)).collect()
}

/// Shortens 1500 to 1.5k.
fn short(value: f64) -> String {
    let (value, unit) = match value.abs() {
        size if size >= 1e6 => (value / 1e6, "M"),
        size if size >= 1e4 => (value / 1e3, "k"),
        _ => (value, ""),
    };
    let text = format!("{value:.3}");
    format!("{}{unit}", text.trim_end_matches('0').trim_end_matches('.'))
}

pub(crate) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            _ => escaped.push(letter),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(points: Vec<(f64, Option<f64>)>, log_y: bool) -> String {
        let series = vec![Series { name: "a<b".to_owned(), points, dashed: false }];
        let marks = vec![(1.0, "kill \"x\"".to_owned())];
        Chart { title: "t", x_label: "s", y_label: "ms", series, marks, log_y, x_ticks: None }.to_svg()
    }

    #[test]
    fn charts_are_well_formed_whatever_is_drawn() {
        for points in
            [vec![], vec![(0.0, None)], vec![(5.0, Some(0.0))], vec![(0.0, Some(1.0)), (1.0, None), (2.0, Some(1e6))]]
        {
            for log_y in [false, true] {
                let svg = chart(points.clone(), log_y);
                assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
                assert!(svg.contains("a&lt;b") && svg.contains("kill &quot;x&quot;"));
                assert_eq!(svg.matches("<text").count(), svg.matches("</text>").count());
            }
        }
    }

    #[test]
    fn a_missing_point_breaks_the_line() {
        let svg = chart(vec![(0.0, Some(1.0)), (1.0, Some(2.0)), (2.0, None), (3.0, Some(1.0))], false);
        let line = svg.lines().find(|line| line.starts_with("<path")).expect("a line");
        assert_eq!((line.matches('M').count(), line.matches('L').count()), (2, 1));
    }

    #[test]
    fn labels_of_close_marks_are_below_or_beside_each_other() {
        let long = "partition storage-leader for 8s begins";
        let places = label_places(&[(100.0, "ends"), (104.0, "healed"), (300.0, "a"), (500.0, long), (501.0, long)]);
        assert_eq!((places[0], places[2], places[3]), ((100.0, TOP), (300.0, TOP), (500.0, TOP)));
        assert_eq!(places[1], (104.0, TOP + 30.0));
        assert!(places[4].0 < 490.0, "there is no room below: {places:?}");
        assert_eq!(label_places(&[(100.0, long); 9]).len(), 9, "and where there is none at all they are drawn anyway");
    }

    #[test]
    fn ticks_are_round() {
        assert_eq!(linear_ticks((0.0, 43.0), 5), [0.0, 10.0, 20.0, 30.0, 40.0]);
        assert_eq!(log_ticks((0.1, 100.0)), [0.1, 1.0, 10.0, 100.0]);
        assert_eq!([short(0.25), short(12_500.0), short(3e6)], ["0.25", "12.5k", "3M"]);
    }
}
