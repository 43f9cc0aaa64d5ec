//! A report as test cases of JUnit, which CI servers show: each demanded level, each class of violations, and whether the run says
//! anything at all.

use std::io;

use quick_xml::{
    Writer,
    events::{BytesDecl, BytesEnd, BytesStart, BytesText, Event},
};

use super::{
    Report, Verdict,
    capacity::{CapacityOutcome, Step},
    text,
};

/// Classes that a run without violations has, too, so that a test case does not come and go.
const CLASSES: [&str; 12] = [
    "lost",
    "doubled",
    "reordered",
    "invented",
    "corrupted",
    "gap",
    "misplaced",
    "overheard",
    "intruded",
    "presence wrong",
    "mark wrong",
    "chat state wrong",
];

struct Case {
    group: &'static str,
    name: String,
    outcome: Outcome,
}

enum Outcome {
    Passed,
    Failed(String),
    /// It can't be said whether it would have passed.
    Error(String),
}

pub fn junit(report: &Report) -> String {
    let mut writer = Writer::new_with_indent(Vec::new(), b' ', 2);
    // Writing to memory does not fail.
    let _ = write(&mut writer, report);
    String::from_utf8(writer.into_inner()).expect("made of texts")
}

fn cases(report: &Report) -> Vec<Case> {
    let mut cases = Vec::new();
    let mut add = |group, name: &str, outcome| cases.push(Case { group, name: name.to_owned(), outcome });
    let violations = &report.integrity.violations;
    let others = violations.keys().map(String::as_str).filter(|class| !CLASSES.contains(class));
    for class in CLASSES.into_iter().chain(others) {
        add(
            "integrity",
            &format!("nothing is {class}"),
            match violations.get(class) {
                None | Some(0) => Outcome::Passed,
                Some(count) => {
                    let is_one = |example: &&String| example.starts_with(class);
                    let examples: Vec<_> = report.integrity.examples.iter().filter(is_one).cloned().collect();
                    Outcome::Failed(format!("{count} {class}\n{}", examples.join("\n")))
                }
            },
        );
    }
    let unread = report.integrity.not_provable().map(|why| {
        let examples = report.integrity.examples.iter().filter(|example| example.starts_with("unread"));
        Outcome::Error(format!("{why}\n{}", examples.cloned().collect::<Vec<_>>().join("\n")))
    });
    add("integrity", "every inbox is read back", unread.unwrap_or(Outcome::Passed));
    for level in &report.levels {
        let got = level.got.map_or_else(|| "no figure".to_owned(), text::number);
        let outcome =
            if level.met { Outcome::Passed } else { Outcome::Failed(format!("wanted {}, got {got}", level.wanted)) };
        add("level", &level.name, outcome);
    }
    if let Some(capacity) = &report.capacity {
        let steps: Vec<_> = capacity.steps.iter().map(step).collect();
        let told = format!("{}\n{}", capacity.why, steps.join("\n"));
        add(
            "capacity",
            "a rate that holds the level is found",
            match capacity.outcome {
                CapacityOutcome::Found => Outcome::Passed,
                CapacityOutcome::None => Outcome::Failed(told),
                CapacityOutcome::AtLeast | CapacityOutcome::NotConfirmed => Outcome::Error(told),
            },
        );
    }
    for worker in &report.workers {
        let outcome = worker.lost.clone().map_or(Outcome::Passed, Outcome::Error);
        add("workers", &format!("{} comes to its end", worker.name), outcome);
    }
    for fault in &report.faults {
        let outcome = fault.failed.clone().map_or(Outcome::Passed, Outcome::Failed);
        add("faults", &format!("{} s: {} is healed", fault.at_ms / 1000, fault.what), outcome);
    }
    let early = |ms: u64| Outcome::Error(format!("it was interrupted after {:.1} s", ms as f64 / 1000.0));
    add("run", "it comes to its end", report.interrupted_ms.map_or(Outcome::Passed, early));
    let valid = report.generator.invalid.clone().map_or(Outcome::Passed, Outcome::Error);
    add("run", "the figures are those of the service", valid);
    cases
}

fn step(step: &Step) -> String {
    let p99 = step.p99_ms(|window| window.acceptance).unwrap_or_default();
    format!("{:.0}/s: acceptance p99 {p99:.1} ms, {} {}", step.rate, step.judgement.as_str(), step.why)
}

fn write(to: &mut Writer<Vec<u8>>, report: &Report) -> io::Result<()> {
    let cases = cases(report);
    let count = |of: fn(&Outcome) -> bool| cases.iter().filter(|case| of(&case.outcome)).count().to_string();
    let failures = count(|outcome| matches!(outcome, Outcome::Failed(_)));
    let errors = count(|outcome| matches!(outcome, Outcome::Error(_)));
    let (tests, seconds) = (cases.len().to_string(), format!("{:.3}", report.measured_s));
    to.write_event(Event::Decl(BytesDecl::new("1.0", Some("UTF-8"), None)))?;
    let counts = [("tests", tests.as_str()), ("failures", &failures), ("errors", &errors), ("time", &seconds)];
    let suites = BytesStart::new("testsuites").with_attributes(counts);
    to.write_event(Event::Start(suites))?;
    let name = clean(&format!("carillon-loadtest {}", report.scenario));
    let suite = BytesStart::new("testsuite").with_attributes([("name", name.as_str())]).with_attributes(counts);
    to.write_event(Event::Start(suite))?;
    properties(to, report)?;
    for case in &cases {
        write_case(to, &report.scenario, case)?;
    }
    to.write_event(Event::Start(BytesStart::new("system-out")))?;
    to.write_event(Event::Text(BytesText::new(&clean(&text::text(report)))))?;
    to.write_event(Event::End(BytesEnd::new("system-out")))?;
    to.write_event(Event::End(BytesEnd::new("testsuite")))?;
    to.write_event(Event::End(BytesEnd::new("testsuites")))
}

fn properties(to: &mut Writer<Vec<u8>>, report: &Report) -> io::Result<()> {
    to.write_event(Event::Start(BytesStart::new("properties")))?;
    let verdict = match report.verdict {
        Verdict::Pass => "pass",
        other => text::verdict(other),
    };
    for (name, value) in [("run", report.run.as_str()), ("verdict", verdict), ("version", &report.version)] {
        let value = clean(value);
        let property = BytesStart::new("property").with_attributes([("name", name), ("value", value.as_str())]);
        to.write_event(Event::Empty(property))?;
    }
    to.write_event(Event::End(BytesEnd::new("properties")))
}

fn write_case(to: &mut Writer<Vec<u8>>, scenario: &str, case: &Case) -> io::Result<()> {
    let (class, name) = (clean(&format!("{scenario}.{}", case.group)), clean(&case.name));
    let start = BytesStart::new("testcase").with_attributes([("classname", class.as_str()), ("name", name.as_str())]);
    let (element, why) = match &case.outcome {
        Outcome::Passed => return to.write_event(Event::Empty(start)),
        Outcome::Failed(why) => ("failure", clean(why)),
        Outcome::Error(why) => ("error", clean(why)),
    };
    to.write_event(Event::Start(start))?;
    let first = why.lines().next().unwrap_or_default();
    to.write_event(Event::Start(BytesStart::new(element).with_attributes([("message", first)])))?;
    to.write_event(Event::Text(BytesText::new(&why)))?;
    to.write_event(Event::End(BytesEnd::new(element)))?;
    to.write_event(Event::End(BytesEnd::new("testcase")))
}

/// XML 1.0 has no way to write other control characters, nor these two.
fn clean(text: &str) -> String {
    let allowed = |letter: char| {
        matches!(letter, '\t' | '\n' | '\r') || !(letter.is_control() || matches!(letter, '\u{fffe}' | '\u{ffff}'))
    };
    text.chars().map(|letter| if allowed(letter) { letter } else { '\u{fffd}' }).collect()
}

#[cfg(test)]
mod tests {
    use quick_xml::{Reader, events::Event};

    use super::{super::tests::report, *};
    use crate::report::{FaultReport, WorkerReport};

    /// The names of elements with their attributes, and the texts, as a reader gets them.
    fn read(xml: &str) -> Vec<String> {
        let mut reader = Reader::from_str(xml);
        let mut found = Vec::new();
        loop {
            match reader.read_event().unwrap_or_else(|error| panic!("{error}: {xml}")) {
                Event::Start(element) | Event::Empty(element) => {
                    let mut told = String::from_utf8_lossy(element.name().as_ref()).into_owned();
                    for attribute in element.attributes() {
                        let attribute = attribute.expect("well-formed");
                        let key = String::from_utf8_lossy(attribute.key.as_ref()).into_owned();
                        let value = String::from_utf8_lossy(&attribute.value).into_owned();
                        let value = quick_xml::escape::unescape(&value).expect("well-formed").into_owned();
                        told += &format!(" {key}={value}");
                    }
                    found.push(told);
                }
                Event::Eof => return found,
                _ => {}
            }
        }
    }

    #[test]
    fn each_level_and_each_finding_is_a_test_case() {
        let mut broken = report("direct", 100.0, 2000);
        broken.workers = vec![WorkerReport {
            name: "worker-2".to_owned(),
            address: "10.0.0.2:9".to_owned(),
            users: 4,
            threads: 2,
            cpu_us: 1,
            late: 0,
            lost: Some("it has ended".to_owned()),
        }];
        broken.faults = vec![FaultReport {
            at_ms: 12_000,
            took_ms: 100,
            what: "roll gateways".to_owned(),
            hit: Vec::new(),
            failed: None,
        }];
        let found = read(&junit(&broken));
        let has = |wanted: &str| assert!(found.iter().any(|one| one == wanted), "{wanted} is not in {found:#?}");
        has("testsuites tests=18 failures=2 errors=2 time=2.000");
        has("testcase classname=direct.integrity name=nothing is lost");
        has("failure message=1 lost");
        has("testcase classname=direct.integrity name=nothing is gap");
        has("testcase classname=direct.level name=rate 1/s");
        has("failure message=wanted 1, got no figure");
        has("error message=it has ended");
        has("testcase classname=direct.faults name=12 s: roll gateways is healed");
        has("error message=it <was>");
    }

    #[test]
    fn a_run_without_violations_has_the_same_test_cases() {
        let names = |report: &Report| cases(report).into_iter().map(|case| case.name).collect::<Vec<_>>();
        let broken = report("direct", 100.0, 2000);
        let mut whole = broken.clone();
        whole.integrity.violations.clear();
        assert_eq!(names(&whole), names(&broken));
        assert_eq!(cases(&whole).iter().filter(|case| matches!(case.outcome, Outcome::Failed(_))).count(), 1);
    }

    #[test]
    fn texts_that_are_no_xml_are_escaped() {
        let mut strange = report("a<b> & \"c\" 'd'", 100.0, 2000);
        strange.generator.invalid = Some("\u{1b}[31mred\u{0} ]]> <!-- & \u{ffff}".to_owned());
        strange.integrity.examples = vec!["lost: <&>\"'".to_owned()];
        let xml = junit(&strange);
        let found = read(&xml);
        assert!(found.iter().any(|one| one.contains("name=carillon-loadtest a<b> & \"c\" 'd'")), "{found:?}");
        assert!(found.iter().any(|one| one.contains("[31mred\u{fffd} ]]> <!-- &")), "{found:?}");
        assert!(!xml.chars().any(|letter| letter.is_control() && letter != '\n'));
    }
}
