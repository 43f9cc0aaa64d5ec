use proptest::prelude::*;

use super::*;
use crate::{
    Jid,
    error::{ErrorType, StanzaCondition},
    stream::Limits,
};

fn read(text: &str) -> Result<Form, InvalidForm> {
    Form::read(&Element::parse(text, &Limits::default()).expect("valid")).expect("a form")
}

/// Like XEP-0004, section 5.1, example 2: a bot's configuration.
fn configuration() -> Form {
    Form::of(FormType::Form, "jabber:bot")
        .with_title("Bot Configuration")
        .with_instructions("Fill out this form to configure your new bot!")
        .with_field(Field { var: None, ..Field::new(FieldType::Fixed, "").with_value("Section 1: Bot Info") })
        .with_field(Field::new(FieldType::TextSingle, "botname").with_label("The name of your bot"))
        .with_field(Field::new(FieldType::TextMulti, "description").with_description("Helpful text"))
        .with_field(Field::new(FieldType::Boolean, "public").with_label("Public bot?").required())
        .with_field(Field::new(FieldType::TextPrivate, "password"))
        .with_field(
            Field::new(FieldType::ListMulti, "features")
                .with_choice("Contests", "contests")
                .with_choice("News", "news")
                .with_choice("Polls", "polls")
                .with_value("news"),
        )
        .with_field(Field::new(FieldType::ListSingle, "maxsubs").with_choice("10", "10").with_choice("None", ""))
        .with_field(Field::new(FieldType::JidMulti, "invitelist"))
        .with_field(Field::new(FieldType::JidSingle, "owner"))
}

fn submit(fields: &[(&str, &[&str])]) -> Result<Submission, InvalidSubmission> {
    let mut form = Form::of(FormType::Submit, "jabber:bot");
    for (var, values) in fields {
        let values = values.iter().map(|value| (*value).to_owned()).collect();
        form = form.with_field(Field { values, ..Field::untyped(var) });
    }
    // As it comes in a stream.
    let form = read(&form.element().to_string()).expect("valid");
    configuration().submission(&form)
}

#[test]
fn a_form_is_written_as_the_xep_has_it() {
    let form = Form::of(FormType::Form, "jabber:bot")
        .with_title("Bot")
        .with_instructions("Fill & send")
        .with_field(Field::new(FieldType::Boolean, "public").with_label("Public?").required().with_boolean(true))
        .with_field(Field::new(FieldType::TextMulti, "text").with_description("Lines").with_lines("a\nb"))
        .with_field(Field::new(FieldType::ListSingle, "max").with_value("10").with_choice("Ten", "10"));
    assert_eq!(
        form.element().to_string(),
        "<x xmlns='jabber:x:data' type='form'><title>Bot</title><instructions>Fill &amp; send</instructions>\
         <field var='FORM_TYPE' type='hidden'><value>jabber:bot</value></field>\
         <field var='public' type='boolean' label='Public?'><required/><value>1</value></field>\
         <field var='text' type='text-multi'><desc>Lines</desc><value>a</value><value>b</value></field>\
         <field var='max' type='list-single'><value>10</value><option label='Ten'><value>10</value></option></field></x>"
    );
    assert_eq!(form.protocol(), Some("jabber:bot"));
    let field = Field::untyped("jid").with_value("a@b");
    let items = Form {
        reported: vec![Field::new(FieldType::JidSingle, "jid").with_label("Address")],
        items: vec![vec![field.clone()], vec![field]],
        ..Form::new(FormType::Result)
    };
    assert_eq!(
        items.element().to_string(),
        "<x xmlns='jabber:x:data' type='result'><reported><field var='jid' type='jid-single' label='Address'/></reported>\
         <item><field var='jid'><value>a@b</value></field></item><item><field var='jid'><value>a@b</value></field></item></x>"
    );
    for form in [form, items, configuration()] {
        assert_eq!(read(&form.element().to_string()), Ok(form));
    }
}

/// XEP-0004, section 3.2: a field "MUST possess a 'var' attribute"; "The \<option/\> element MUST contain one and only one \<value/\> child."
#[test]
fn a_form_against_the_rules_is_refused() {
    let x = |inside: &str| format!("<x xmlns='jabber:x:data' type='submit'>{inside}</x>");
    for (text, expected) in [
        ("<x xmlns='jabber:x:data'/>".to_owned(), InvalidForm::Type),
        ("<x xmlns='jabber:x:data' type='error'/>".to_owned(), InvalidForm::Type),
        (x("<field><value>1</value></field>"), InvalidForm::NoName),
        (x("<field type='hidden'/>"), InvalidForm::NoName),
        (x("<field var='a'/><field var='b'/><field var='a'/>"), InvalidForm::Twice("a".into())),
        (x("<item><field var='a'/><field var='a'/></item>"), InvalidForm::Twice("a".into())),
        (x("<field var='a'><option/></field>"), InvalidForm::Option("a".into())),
        (x("<field var='a'><option><value/><value/></option></field>"), InvalidForm::Option("a".into())),
        (x(&(0..1025).map(|n| format!("<field var='{n}'/>")).collect::<String>()), InvalidForm::Fields),
        (x(&format!("<field var='a'>{}</field>", "<value/>".repeat(8193))), InvalidForm::Values),
    ] {
        assert_eq!(read(&text), Err(expected), "{}", &text[..text.len().min(200)]);
    }
    // A type that nobody knows is that of a line of text (section 3.3). Elements of others do not matter.
    let form =
        read(&x("<field type='color' var='a'><media xmlns='urn:x'/></field><field type='fixed'/><y xmlns='urn:x'/>"));
    let form = form.expect("valid");
    let types: Vec<_> = form.fields.iter().map(|field| field.field_type).collect();
    assert_eq!(types, [Some(FieldType::TextSingle), Some(FieldType::Fixed)]);
    assert_eq!((form.protocol(), Form::read(&Element::new("x", "urn:x"))), (None, None));
    // The field that names the protocol is hidden (XEP-0068).
    let shown = Form::new(FormType::Result).with_field(Field::new(FieldType::TextSingle, FORM_TYPE).with_value("a"));
    assert_eq!(shown.protocol(), None);
}

/// XEP-0004, section 3.1: "MUST ignore any fields that it does not understand"; section 3.3: "duplicate JIDs MUST be ignored", "MUST NOT insert new
/// options".
#[test]
fn what_comes_back_is_checked_by_the_form() {
    let found = submit(&[
        ("public", &["true"]),
        ("botname", &["Fred"]),
        ("description", &["", "two"]),
        ("features", &["news", "polls"]),
        ("maxsubs", &[""]),
        ("invitelist", &["Juliet@example.org", "juliet@EXAMPLE.org", "romeo@example.org/x"]),
        ("owner", &[]),
        ("unknown", &["x"]),
    ])
    .expect("valid");
    assert_eq!((found.boolean("public"), found.text("botname")), (Some(true), Some("Fred")));
    assert_eq!(found.lines("description").as_deref(), Some("\ntwo"));
    assert_eq!(found.values("features"), Some(&["news".to_owned(), "polls".to_owned()][..]));
    assert_eq!((found.text("maxsubs"), found.values("maxsubs").map(<[_]>::len)), (Some(""), Some(1)));
    let addresses = ["juliet@example.org", "romeo@example.org/x"].map(|text| Jid::new(text).expect("an address"));
    assert_eq!(found.addresses("invitelist").as_deref(), Some(&addresses[..]));
    // One field came back without a value, one did not come back, and one is not of the form.
    assert_eq!(found.values("owner"), Some(&[][..]));
    assert_eq!((found.values("password"), found.values("unknown")), (None, None));
    for (fields, var, wrong) in [
        (&[][..], "public", Wrong::Missing),
        (&[("public", &[][..])], "public", Wrong::Missing),
        (&[("public", &[""])], "public", Wrong::Missing),
        (&[("public", &["yes"])], "public", Wrong::Boolean),
        (&[("public", &["1", "1"])], "public", Wrong::Many),
        (&[("public", &["0"]), ("botname", &["a", "b"])], "botname", Wrong::Many),
        (&[("public", &["0"]), ("botname", &["a\nb"])], "botname", Wrong::Lines),
        (&[("public", &["0"]), ("password", &["a\rb"])], "password", Wrong::Lines),
        (&[("public", &["0"]), ("features", &["news", "wars"])], "features", Wrong::Choice),
        (&[("public", &["0"]), ("maxsubs", &["11"])], "maxsubs", Wrong::Choice),
        (&[("public", &["0"]), ("owner", &["a b@c"])], "owner", Wrong::Address),
        (&[("public", &["0"]), ("invitelist", &["a@b", "@"])], "invitelist", Wrong::Address),
    ] {
        assert_eq!(submit(fields), Err(InvalidSubmission { var: var.to_owned(), wrong }), "{fields:?}");
    }
    let other = Form::of(FormType::Submit, "jabber:other").with_field(Field::untyped("public").with_value("1"));
    let error = configuration().submission(&other).expect_err("another form");
    assert_eq!((&*error.var, error.wrong), (FORM_TYPE, Wrong::Hidden));
    let error = error.stanza_error();
    assert_eq!((error.condition, error.error_type), (StanzaCondition::NotAcceptable, ErrorType::Modify));
    assert_eq!(error.text.as_deref(), Some("the field FORM_TYPE: its value may not be changed"));
}

proptest! {
    #[test]
    fn forms_are_read_as_they_were_written(
        form_type in 0..4usize,
        fields in prop::collection::btree_map("[a-z#]{1,6}", (0..11usize, any::<bool>(), prop::collection::vec("\\PC{0,6}", 0..4)), 0..6),
        title in prop::option::of("\\PC{0,8}"),
    ) {
        let mut form = Form { title, ..Form::new(FormType::ALL[form_type]) };
        for (var, (field_type, is_required, texts)) in fields {
            let field_type = FieldType::ALL.get(field_type).copied();
            let choices = texts.iter().map(|value| Choice { label: is_required.then(|| value.clone()), value: value.clone() });
            let choices = if matches!(field_type, Some(FieldType::ListMulti | FieldType::ListSingle)) { choices.collect() } else { Vec::new() };
            form.fields.push(Field { field_type, is_required, choices, values: texts, ..Field::untyped(&var) });
        }
        prop_assert_eq!(read(&form.element().to_string()), Ok(form));
    }

    /// Whatever comes back, each value that is taken is one of the field.
    #[test]
    fn what_is_taken_is_allowed(values in prop::collection::vec(prop::sample::select(vec!["", "1", "news", "polls", "a@b", "x y", "10", "a\nb"]), 0..4), field in 0..8usize) {
        let vars = ["botname", "description", "public", "password", "features", "maxsubs", "invitelist", "owner"];
        let mut fields = vec![(vars[field], &values[..])];
        if vars[field] != "public" {
            fields.push(("public", &["1"]));
        }
        if let Ok(found) = submit(&fields) {
            let form = configuration();
            let field_type = form.field(vars[field]).and_then(|field| field.field_type).expect("typed");
            let taken = found.values(vars[field]).unwrap_or_default();
            prop_assert!(taken.len() <= 1 || field_type.has_many_values());
            for value in taken {
                match field_type {
                    FieldType::ListMulti | FieldType::ListSingle => {
                        prop_assert!(form.field(vars[field]).expect("there").choices.iter().any(|choice| choice.value == *value));
                    }
                    FieldType::JidMulti | FieldType::JidSingle => prop_assert!(Jid::new(value).is_ok()),
                    FieldType::Boolean => prop_assert!(matches!(&**value, "0" | "1")),
                    _ => {}
                }
            }
        }
    }
}
