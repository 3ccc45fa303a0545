//! Rules about prompts and what ends a text.

use crate::prompt::TEMPLATES;
use crate::schema::Settings;
use crate::sections::DataSource;

pub(super) fn faults(s: &Settings, faults: &mut Vec<String>) {
    for (key, model) in [("strong", &s.strong), ("weak", &s.weak)] {
        let prompt = &model.prompt;
        if !prompt.text().contains("{question}") {
            let names = TEMPLATES.map(|(name, _)| name).join(", ");
            faults.push(format!(
                "{key}.prompt.template is `{}`, which lacks {{question}} and is none of {names}",
                prompt.template
            ));
        }
        if !prompt.system.is_empty() && !prompt.chat {
            faults.push(format!(
                "{key}.prompt.system is set but {key}.prompt.chat is off: a system's message needs \
                 a chat template"
            ));
        }
        if !prompt.thinking && !prompt.chat {
            faults.push(format!(
                "{key}.prompt.thinking is off and so is {key}.prompt.chat: only a chat template can \
                 be told"
            ));
        }
        if prompt.shots() > 0 && s.data.source == DataSource::Miniature {
            faults.push(format!(
                "{key}.prompt.few_shot needs worked examples but data.source is miniature: use 0"
            ));
        }
    }
    if let Some(text) = s.sampling.stop_texts.iter().find(|text| !text.is_ascii()) {
        faults.push(format!(
            "sampling.stop_texts has {text:?}: write ASCII, since other letters may be split over \
             tokens"
        ));
    }
    if s.sampling.stop_texts.iter().any(String::is_empty) {
        faults.push("sampling.stop_texts has an empty text, which ends everything".to_owned());
    }
}
