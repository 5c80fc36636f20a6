use proptest::prelude::*;

use super::*;

fn value(text: &str) -> Value {
    parse(text, 0).unwrap().to_value()
}

#[track_caller]
fn refused(text: &str) -> (u32, u32, Problem) {
    let error = parse(text, 0).unwrap_err();
    (error.at.line, error.at.column, error.problem)
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

#[test]
fn a_document_becomes_values() {
    let text = "a: 1e-4 # comment\nb: [no, 'no', \"1\", 1, 1.0]\nc: {d: ~, e: !!str 5}\nf: |\n  1\ng:\n";
    assert_eq!(
        value(text),
        json(
            r#"{"a": 1e-4, "b": ["no", "no", "1", 1, 1.0], "c": {"d": null, "e": "5"}, "f": "1\n", "g": null}"#
        )
    );
    for empty in ["", "# nothing\n", "---\n"] {
        assert_eq!(value(empty), Value::Null, "{empty:?}");
    }
    assert_eq!(value("\u{feff}a: 1"), json(r#"{"a": 1}"#));
}

#[test]
fn nodes_know_where_they_were_written() {
    let node = parse("a: 1\nbb:\n  - x\n  - {c: d}\n", 7).unwrap();
    let Kind::Map(entries) = &node.kind else { panic!() };
    assert_eq!(entries[1].at, Mark { source: 7, line: 2, column: 1 });
    let Kind::List(items) = &entries[1].value.kind else { panic!() };
    assert_eq!((items[0].at.line, items[0].at.column), (3, 5));
    let Kind::Map(inner) = &items[1].kind else { panic!() };
    assert_eq!((inner[0].at.line, inner[0].at.column), (4, 6));
    assert_eq!((inner[0].value.at.line, inner[0].value.at.column), (4, 9));
}

#[test]
fn aliases_repeat_their_anchor() {
    assert_eq!(
        value("a: &x [1, {b: 2}]\nc: *x\nd: [*x]\n"),
        json(r#"{"a":[1,{"b":2}],"c":[1,{"b":2}],"d":[[1,{"b":2}]]}"#)
    );
    assert_eq!(refused("a: &x [1, *x]\n"), (1, 11, Problem::AliasOfItself));
    assert!(matches!(refused("a: *x\n").2, Problem::Syntax(_)));
}

#[test]
fn what_is_ambiguous_is_refused_at_its_place() {
    assert_eq!(refused("a: 1\nb: 2\n'a': 3\n"), (3, 1, Problem::DuplicateKey { key: "a".into(), line: 1 }));
    assert_eq!(refused("1: x\n"), (1, 1, Problem::KeyIsNoString("the number 1".into())));
    assert!(matches!(refused("? [a]\n: x\n").2, Problem::KeyIsNoString(_)));
    assert_eq!(refused("a: &m {x: 1}\nb:\n  <<: *m\n"), (3, 3, Problem::MergeKey));
    assert_eq!(refused("a: 1\n---\nb: 2\n"), (2, 1, Problem::SecondDocument));
    assert_eq!(refused("a: !!int '5'\n").2, Problem::Tag);
    assert_eq!(refused("a: !x [1]\n").2, Problem::Tag);
    assert_eq!(refused("a:\n  b: .inf\n"), (2, 6, Problem::Number(".inf".into())));
    let (line, _, problem) = refused("a: [1\nb: 2\n");
    assert!(line >= 2 && matches!(problem, Problem::Syntax(_)), "{line} {problem}");
}

#[test]
fn costs_are_bounded_by_name() {
    assert_eq!(refused(&" ".repeat(MAX_BYTES + 1)).2, Problem::TooLarge(MAX_BYTES + 1));
    let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    assert!(parse(&nested(MAX_DEPTH), 0).is_ok());
    assert_eq!(refused(&nested(MAX_DEPTH + 1)).2, Problem::TooDeep);
    assert_eq!(refused(&"- ".repeat(5_000)).2, Problem::TooDeep);
    assert!(parse(&"[".repeat(MAX_BYTES), 0).is_err());
    assert_eq!(refused(&format!("[{}]", "1,".repeat(MAX_NODES))).2, Problem::TooManyNodes);
}

#[test]
fn aliases_cannot_multiply_beyond_the_bounds() {
    let mut laughs = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for i in 1..12 {
        let before = i - 1;
        laughs += &format!("a{i}: &a{i} [{}]\n", vec![format!("*a{before}"); 10].join(", "));
    }
    assert_eq!(refused(&laughs).2, Problem::TooManyNodes);
    let long = format!("a: &x {}\nb: [{}]\n", "y".repeat(100_000), vec!["*x"; 1_000].join(", "));
    assert_eq!(refused(&long).2, Problem::TooMuchText);
    let mut deep = "a0: &a0 [x]\n".to_owned();
    for i in 1..70 {
        deep += &format!("a{i}: &a{i} [*a{}]\n", i - 1);
    }
    assert_eq!(refused(&deep).2, Problem::TooDeep);
}

proptest! {
    #[test]
    fn arbitrary_text_never_panics(text in any::<String>()) {
        let _ = parse(&text, 0);
    }

    #[test]
    fn text_that_resembles_yaml_never_panics(text in "([-?:,&*!|>'\"%@`{}\\[\\]# ~<.ab01\n\t]|: |- |\n  |&a|\\*a|---\n){0,60}") {
        let _ = parse(&text, 0);
    }

    #[test]
    fn json_is_yaml(value in crate::value::tests::any_value()) {
        // YAML has no characters below the space but tab and line ends, and JSON's surrogate pairs are not YAML's.
        let text = serde_json::to_string(&value).unwrap();
        prop_assume!(text.chars().all(|c| c.is_ascii_graphic() || c == ' ') && !text.contains("\\u"));
        prop_assert!(parse(&text, 0).unwrap().to_value().same(&value));
    }
}
