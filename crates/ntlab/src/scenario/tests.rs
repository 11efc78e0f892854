use super::*;

const GOOD: &str = r#"
before = [{ open = { handle = "h", interface = "{f04e1617-0ca5-4d07-9a1b-3c5d7e8f90a1}" } }]
[machine]
processors = 1
[driver]
ids = ['ROOT\A']
parameters = { Slots = 16, Name = "a" }
[[device]]
name = "a"
hardware = { software = 'ROOT\A' }
[[device]]
name = "b"
hardware = { edu = {} }
[[thread]]
repeat = 3
steps = [
    { write = { handle = "h", data = "68 65 6C", request = "r" } },
    { cancel = { request = "r" } },
    { wait = { request = "r", expect = ["STATUS_SUCCESS", 0xC0000120] } },
    { disable = { device = "a" } },
]
"#;

#[test]
fn a_scenario_survives_being_written_down() {
    let scenario = Scenario::parse(GOOD).expect("it makes sense");
    let text = toml::to_string(&scenario).expect("it can be written");
    assert_eq!(Scenario::parse(&text), Ok(scenario));
}

fn error(good: &str, bad: &str) -> String {
    assert!(GOOD.contains(good), "{good}");
    Scenario::parse(&GOOD.replacen(good, bad, 1)).expect_err("it makes no sense").to_string()
}

#[test]
fn a_mistake_is_named_with_its_line_and_column() {
    for (good, bad, line) in [
        (
            "processors = 1",
            "processors = 9",
            "line 3, column 1: 9 processors cannot be active where there are places for 8",
        ),
        ("processors = 1", "procesors = 1", "line 4, column 1: unknown field `procesors`"),
        ("data = \"68 65 6C\"", "data = \"6\"", "line 17, column 38: bytes are written as pairs of hexadecimal digits"),
        (
            "{ device = \"a\" }",
            "{ device = \"c\" }",
            "line 20, column 5: there is no device \"c\": devices are named in [[device]]",
        ),
        ("name = \"b\"", "name = \"a\"", "line 11, column 1: there are two devices \"a\""),
        ("cancel = { request = \"r\"", "cancel = { request = \"s\"", "line 18, column 5: there is no request \"s\""),
        ("repeat = 3", "repeat = 0", "line 14, column 1: a thread does its steps at least once"),
        ("\"STATUS_SUCCESS\"", "\"STATUS_SUCCES\"", "line 19, column"),
        ("[[device]]", "[device", "line 8, column 8:"),
    ] {
        let error = error(good, bad);
        assert!(error.starts_with(line) && !error.contains('\n'), "{bad}: {error}");
    }
}
