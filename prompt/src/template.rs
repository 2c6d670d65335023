//! Chat templates (Jinja, as Hugging Face renders them), bounded in time, depth and output.

use std::collections::BTreeMap;
use std::io;

use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, ErrorKind, UndefinedBehavior, Value, context};
use serde::{Deserialize, Serialize};

/// Instructions that one rendering may use; the templates of the known families need a few hundred per message.
const FUEL_BASE: u64 = 100_000;
/// Further instructions per message.
const FUEL_PER_MESSAGE: u64 = 2_000;
/// Depth of macro calls and nested blocks.
const MAX_DEPTH: usize = 64;
/// Longest template source in bytes.
const MAX_TEMPLATE_BYTES: usize = 256 * 1024;
/// Text that a template may add to the messages, in bytes.
const MAX_ADDED_BYTES: usize = 256 * 1024;
const NAME: &str = "chat_template";

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    pub role: String,
    pub content: String,
}

impl Message {
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into() }
    }
}

/// Why a template was refused or did not render.
#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    #[error("chat template is {bytes} bytes long, at most {MAX_TEMPLATE_BYTES} are allowed")]
    TooLong { bytes: usize },
    #[error("chat template does not parse: {0}")]
    Syntax(String),
    #[error("the model's chat template refuses these messages: {0}")]
    Refused(String),
    #[error("chat template needs more than {fuel} steps or {MAX_DEPTH} levels; it loops, or there are too many messages")]
    Bound { fuel: u64 },
    #[error("chat template writes more than {limit} bytes")]
    OutputTooLong { limit: usize },
    #[error("chat template failed: {0}")]
    Render(String),
    #[error("the last message is of the role `{role}`; only one of the role `assistant` can be continued")]
    NotAnAnswer { role: String },
    #[error("the last message has no text that could be continued; leave the message out")]
    NothingToContinue,
    #[error("the model's chat template does not print the last message as it is, so it can't be continued; ask a new question")]
    Reworded,
}

/// A parsed chat template with the special tokens that it may print.
pub struct ChatTemplate {
    environment: Environment<'static>,
    source: String,
    bos_token: String,
    eos_token: String,
}

impl ChatTemplate {
    pub fn new(source: &str, bos_token: &str, eos_token: &str) -> Result<Self, TemplateError> {
        if source.len() > MAX_TEMPLATE_BYTES {
            return Err(TemplateError::TooLong { bytes: source.len() });
        }
        let mut environment = Environment::new();
        // Hugging Face's Jinja settings.
        let syntax =
            SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build().map_err(|e| TemplateError::Syntax(e.to_string()))?;
        environment.set_syntax(syntax);
        environment.set_undefined_behavior(UndefinedBehavior::Lenient);
        environment.set_recursion_limit(MAX_DEPTH);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", |message: String| -> Result<String, minijinja::Error> {
            Err(minijinja::Error::new(ErrorKind::InvalidOperation, message).with_source(Raised))
        });
        // Deliberately absent: strftime_now. Meter and node must render the same bytes at any time; templates that ask
        // for the date test whether the function exists and print a fixed one otherwise.
        environment.add_template_owned(NAME, source.to_owned()).map_err(|e| TemplateError::Syntax(e.to_string()))?;
        Ok(Self { environment, source: source.to_owned(), bos_token: bos_token.to_owned(), eos_token: eos_token.to_owned() })
    }

    /// The template's text as the model's folder has it.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Prompt text for the messages, ending where the assistant's answer begins.
    pub fn render(&self, messages: &[Message]) -> Result<String, TemplateError> {
        self.render_with(messages, true)
    }

    /// Prompt text for the messages, ending in the text of the last one, which the assistant goes on with.
    ///
    /// As `continue_final_message` of Hugging Face's `apply_chat_template`, but for white space at the text's end: it stays also where the
    /// template trims it. Errors when the last message is nobody's answer, is empty, or is not printed as it is.
    pub fn render_continued(&self, messages: &[Message]) -> Result<String, TemplateError> {
        let last = messages.last().filter(|last| last.role == "assistant");
        let Some(last) = last else {
            return Err(TemplateError::NotAnAnswer { role: messages.last().map(|last| last.role.clone()).unwrap_or_default() });
        };
        let printed = last.content.trim();
        if printed.is_empty() {
            return Err(TemplateError::NothingToContinue);
        }
        let mut text = self.render_with(messages, false)?;
        let end = text.rfind(printed).ok_or(TemplateError::Reworded)? + printed.len();
        text.truncate(end);
        text.push_str(&last.content[last.content.trim_end().len()..]);
        Ok(text)
    }

    fn render_with(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String, TemplateError> {
        let content_bytes: usize = messages.iter().map(|m| m.content.len() + m.role.len()).sum();
        let fuel = FUEL_BASE + FUEL_PER_MESSAGE * messages.len() as u64;
        // A template may print a message twice (a tool list, a repeated system prompt), hence the factor.
        let limit = MAX_ADDED_BYTES + 2 * content_bytes;

        let mut environment = self.environment.clone();
        environment.set_fuel(Some(fuel));
        let template = environment.get_template(NAME).map_err(|e| TemplateError::Render(e.to_string()))?;
        let values = context! {
            messages => messages.iter().map(as_value).collect::<Vec<_>>(),
            add_generation_prompt,
            bos_token => self.bos_token.as_str(),
            eos_token => self.eos_token.as_str(),
            tools => (),
            documents => (),
        };
        let mut out = BoundedText { bytes: Vec::new(), limit, overrun: false };
        let rendered = template.render_captured_to(values, &mut out).map(drop);
        if out.overrun {
            return Err(TemplateError::OutputTooLong { limit });
        }
        rendered.map_err(|error| describe(&error, fuel))?;
        String::from_utf8(out.bytes).map_err(|e| TemplateError::Render(e.to_string()))
    }
}

fn as_value(message: &Message) -> Value {
    Value::from(BTreeMap::from([("role", Value::from(&*message.role)), ("content", Value::from(&*message.content))]))
}

/// Marks errors that the template itself raised.
#[derive(Debug, thiserror::Error)]
#[error("raised by the template")]
struct Raised;

fn describe(error: &minijinja::Error, fuel: u64) -> TemplateError {
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        if cause.is::<Raised>() {
            return TemplateError::Refused(error.detail().unwrap_or("no reason given").to_owned());
        }
        source = cause.source();
    }
    let text = error.to_string();
    if error.kind() == ErrorKind::OutOfFuel || text.contains("recursion limit") {
        return TemplateError::Bound { fuel };
    }
    TemplateError::Render(text)
}

struct BoundedText {
    bytes: Vec<u8>,
    limit: usize,
    overrun: bool,
}

impl io::Write for BoundedText {
    fn write(&mut self, piece: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + piece.len() > self.limit {
            self.overrun = true;
            return Err(io::ErrorKind::WriteZero.into());
        }
        self.bytes.extend_from_slice(piece);
        Ok(piece.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(source: &str, messages: &[Message]) -> Result<String, TemplateError> {
        ChatTemplate::new(source, "<s>", "</s>")?.render(messages)
    }

    #[test]
    fn python_style_template_renders_as_hugging_face_does() {
        let source = "{% for m in messages %}\n{{ bos_token + m['role'].strip().upper() + ':' + m.content.split('x')[0] }}\n{% endfor %}\n{% if add_generation_prompt %}A:{% endif %}";
        let text = render(source, &[Message::new(" user ", "1x2"), Message::new("tool", "é")]).unwrap();
        assert_eq!(text, "<s>USER:1\n<s>TOOL:é\nA:");
    }

    #[test]
    fn a_continued_answer_ends_in_its_own_text() {
        let source = "{% for m in messages %}<{{ m.role }}>{{ m.content | trim }}</>\n{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}";
        let continued = |answer: &str| {
            let messages = [Message::new("user", "the sea"), Message::new("assistant", answer)];
            ChatTemplate::new(source, "", "").unwrap().render_continued(&messages)
        };
        assert_eq!(continued("the se").unwrap(), "<user>the sea</>\n<assistant>the se");
        assert_eq!(
            continued(" of salt,\n\n").unwrap(),
            "<user>the sea</>\n<assistant>of salt,\n\n",
            "what a template trims is still the answer's"
        );
        assert_eq!(continued("</>").unwrap(), "<user>the sea</>\n<assistant></></>", "a text that looks like the template's own");
        assert!(matches!(continued(" \n"), Err(TemplateError::NothingToContinue)));
    }

    #[test]
    fn only_an_answer_that_is_printed_as_it_is_can_be_continued() {
        let source = "{% for m in messages %}{{ m.content.split('</think>')[-1] }};{% endfor %}";
        let continued = |messages: &[Message]| ChatTemplate::new(source, "", "").unwrap().render_continued(messages);
        let question = Message::new("user", "why");
        let thought = Message::new("assistant", "so</think>then");
        assert!(matches!(continued(&[question.clone(), thought]), Err(TemplateError::Reworded)));
        assert!(matches!(continued(&[question]), Err(TemplateError::NotAnAnswer { role }) if role == "user"));
        assert!(matches!(continued(&[]), Err(TemplateError::NotAnAnswer { role }) if role.is_empty()));
    }

    #[test]
    fn endless_template_is_an_error() {
        let loops = "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}";
        assert!(matches!(render(loops, &[]), Err(TemplateError::Bound { .. })));
        let recursion = "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}";
        assert!(matches!(render(recursion, &[]), Err(TemplateError::Bound { .. })));
    }

    #[test]
    fn output_beyond_its_bound_is_an_error() {
        let source = "{% for a in range(3000) %}{{ 'x' * 1000 }}{% endfor %}";
        assert!(matches!(render(source, &[]), Err(TemplateError::OutputTooLong { .. })));
    }

    #[test]
    fn refusal_of_the_template_names_its_reason() {
        let error = render("{{ raise_exception('roles must alternate') }}", &[]).unwrap_err();
        assert!(matches!(error, TemplateError::Refused(reason) if reason == "roles must alternate"));
    }

    #[test]
    fn broken_template_is_refused_when_opened() {
        assert!(matches!(ChatTemplate::new("{% for %}", "", ""), Err(TemplateError::Syntax(_))));
    }
}
