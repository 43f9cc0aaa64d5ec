//! Data forms (XEP-0004): offers, results and submissions. A form of a protocol names the protocol in the field [`FORM_TYPE`] (XEP-0068).

mod read;
mod submission;

use crate::Element;

pub use submission::{InvalidSubmission, Submission, Wrong};

pub const NAMESPACE: &str = "jabber:x:data";
/// The field that names the protocol of a form (XEP-0068).
pub const FORM_TYPE: &str = "FORM_TYPE";
/// Most fields of a form, those of its items among them.
pub const MAX_FIELDS: usize = 1024;
/// Most values and options of a form.
pub const MAX_VALUES: usize = 8192;

/// The purpose of a form (XEP-0004, section 3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FormType {
    /// An offer, which is to be filled in.
    Form,
    Submit,
    Cancel,
    Result,
}

impl FormType {
    pub const ALL: &[Self] = &[Self::Form, Self::Submit, Self::Cancel, Self::Result];

    pub fn name(self) -> &'static str {
        match self {
            Self::Form => "form",
            Self::Submit => "submit",
            Self::Cancel => "cancel",
            Self::Result => "result",
        }
    }
}

/// The type of a field's values (XEP-0004, section 3.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FieldType {
    Boolean,
    /// Text for people.
    Fixed,
    /// A value that is not shown, and returned as it is.
    Hidden,
    JidMulti,
    JidSingle,
    ListMulti,
    ListSingle,
    TextMulti,
    /// Text that is not shown while it is typed.
    TextPrivate,
    TextSingle,
}

impl FieldType {
    pub const ALL: &[Self] = &[
        Self::Boolean,
        Self::Fixed,
        Self::Hidden,
        Self::JidMulti,
        Self::JidSingle,
        Self::ListMulti,
        Self::ListSingle,
        Self::TextMulti,
        Self::TextPrivate,
        Self::TextSingle,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Boolean => "boolean",
            Self::Fixed => "fixed",
            Self::Hidden => "hidden",
            Self::JidMulti => "jid-multi",
            Self::JidSingle => "jid-single",
            Self::ListMulti => "list-multi",
            Self::ListSingle => "list-single",
            Self::TextMulti => "text-multi",
            Self::TextPrivate => "text-private",
            Self::TextSingle => "text-single",
        }
    }

    /// XEP-0004, section 3.2: "Fields of type list-multi, jid-multi, text-multi, and hidden MAY contain more than one \<value/\> element; all
    /// other field types MUST NOT contain more than one \<value/\> element."
    pub fn has_many_values(self) -> bool {
        matches!(self, Self::ListMulti | Self::JidMulti | Self::TextMulti | Self::Hidden)
    }
}

/// A value that a list offers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    pub label: Option<String>,
    pub value: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    /// The name. Only fields of [`FieldType::Fixed`] may have none.
    pub var: Option<String>,
    /// `None`: the form that was offered says the type.
    pub field_type: Option<FieldType>,
    pub label: Option<String>,
    pub description: Option<String>,
    pub is_required: bool,
    pub values: Vec<String>,
    pub choices: Vec<Choice>,
}

impl Field {
    pub fn new(field_type: FieldType, var: &str) -> Self {
        Self { field_type: Some(field_type), ..Self::untyped(var) }
    }

    /// A field of a form that is submitted.
    pub fn untyped(var: &str) -> Self {
        Self {
            var: Some(var.to_owned()),
            field_type: None,
            label: None,
            description: None,
            is_required: false,
            values: Vec::new(),
            choices: Vec::new(),
        }
    }

    pub fn with_label(self, label: &str) -> Self {
        Self { label: Some(label.to_owned()), ..self }
    }

    pub fn with_description(self, description: &str) -> Self {
        Self { description: Some(description.to_owned()), ..self }
    }

    pub fn required(self) -> Self {
        Self { is_required: true, ..self }
    }

    pub fn with_value(mut self, value: impl Into<String>) -> Self {
        self.values.push(value.into());
        self
    }

    pub fn with_boolean(self, value: bool) -> Self {
        self.with_value(if value { "1" } else { "0" })
    }

    /// Adds a value for each line.
    ///
    /// XEP-0004, section 3.3: "Data provided for fields of type "text-multi" SHOULD NOT contain any newlines [...]. Instead, the application
    /// SHOULD split the data into multiple strings".
    pub fn with_lines(mut self, text: &str) -> Self {
        self.values.extend(text.lines().map(str::to_owned));
        self
    }

    pub fn with_choice(mut self, label: &str, value: &str) -> Self {
        self.choices.push(Choice { label: Some(label.to_owned()), value: value.to_owned() });
        self
    }

    fn element(&self) -> Element {
        let mut field = Element::new("field", NAMESPACE);
        let attributes = [
            ("var", self.var.as_deref()),
            ("type", self.field_type.map(FieldType::name)),
            ("label", self.label.as_deref()),
        ];
        for (name, value) in attributes {
            if let Some(value) = value {
                field = field.with(name, value.to_owned());
            }
        }
        if let Some(description) = &self.description {
            field = field.with_child(Element::new("desc", NAMESPACE).with_text(description));
        }
        if self.is_required {
            field = field.with_child(Element::new("required", NAMESPACE));
        }
        let value = |text: &String| Element::new("value", NAMESPACE).with_text(text);
        let choice = |choice: &Choice| {
            let option = Element::new("option", NAMESPACE).with_child(value(&choice.value));
            match &choice.label {
                Some(label) => option.with("label", label.clone()),
                None => option,
            }
        };
        field.with_children(self.values.iter().map(value)).with_children(self.choices.iter().map(choice))
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Form {
    pub form_type: FormType,
    pub title: Option<String>,
    pub instructions: Vec<String>,
    pub fields: Vec<Field>,
    /// The fields of each item of a result with several ones.
    pub reported: Vec<Field>,
    pub items: Vec<Vec<Field>>,
}

/// A form that is against the rules.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidForm {
    #[error("the form has no type that is known")]
    Type,
    #[error("a field has no name")]
    NoName,
    #[error("the field {0} is there twice")]
    Twice(String),
    #[error("an option of the field {0} has not one value")]
    Option(String),
    #[error("the form has more than {MAX_FIELDS} fields")]
    Fields,
    #[error("the form has more than {MAX_VALUES} values")]
    Values,
}

impl Form {
    pub fn new(form_type: FormType) -> Self {
        Self {
            form_type,
            title: None,
            instructions: Vec::new(),
            fields: Vec::new(),
            reported: Vec::new(),
            items: Vec::new(),
        }
    }

    /// A form of this protocol.
    pub fn of(form_type: FormType, protocol: &str) -> Self {
        let field = match form_type {
            FormType::Submit => Field::untyped(FORM_TYPE),
            _ => Field::new(FieldType::Hidden, FORM_TYPE),
        };
        Self::new(form_type).with_field(field.with_value(protocol))
    }

    pub fn with_title(self, title: &str) -> Self {
        Self { title: Some(title.to_owned()), ..self }
    }

    pub fn with_instructions(mut self, line: &str) -> Self {
        self.instructions.push(line.to_owned());
        self
    }

    pub fn with_field(mut self, field: Field) -> Self {
        self.fields.push(field);
        self
    }

    /// The protocol of the form.
    ///
    /// XEP-0068: "If the FORM_TYPE field is not hidden in a form with type="form" or type="result", it MUST be ignored as a context
    /// indicator." "implementations MUST treat a FORM_TYPE field without an explicit type attribute, in data forms of type "submit", as the
    /// FORM_TYPE field with the special meaning".
    pub fn protocol(&self) -> Option<&str> {
        let field = self.field(FORM_TYPE)?;
        let is_submitted = self.form_type == FormType::Submit && field.field_type.is_none();
        let is_hidden = is_submitted || field.field_type == Some(FieldType::Hidden);
        field.values.first().map(String::as_str).filter(|_| is_hidden)
    }

    /// The field of this name.
    pub fn field(&self, var: &str) -> Option<&Field> {
        self.fields.iter().find(|field| field.var.as_deref() == Some(var))
    }

    /// `<x/>`.
    pub fn element(&self) -> Element {
        let mut form = Element::new("x", NAMESPACE).with("type", self.form_type.name());
        let text = |name, text: &String| Element::new(name, NAMESPACE).with_text(text);
        form = form.with_children(self.title.iter().map(|title| text("title", title)));
        form = form.with_children(self.instructions.iter().map(|line| text("instructions", line)));
        form = form.with_children(self.fields.iter().map(Field::element));
        let of =
            |name, fields: &[Field]| Element::new(name, NAMESPACE).with_children(fields.iter().map(Field::element));
        // XEP-0004, section 3.4: "The \<reported/\> element MUST appear before any \<item/\> element inside the \<x/\> element."
        if !self.reported.is_empty() {
            form = form.with_child(of("reported", &self.reported));
        }
        form.with_children(self.items.iter().map(|item| of("item", item)))
    }
}

#[cfg(test)]
mod tests;
