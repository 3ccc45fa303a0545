//! One panel: what it asks, and how that is drawn. Where it stands is the board's.

use serde_json::{Value, json};

/// Of the provisioned data source.
pub const DATASOURCE: &str = "prom";

/// PromQL, and the name of what comes of it.
#[derive(Clone, Debug)]
pub struct Query {
    pub expression: String,
    pub legend: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// One large number for each series.
    Stat,
    Lines,
    /// Lines on top of each other.
    Stack,
}

/// What a number counts, in Grafana's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    Number,
    /// 0 to 1.
    Share,
    Seconds,
    Bytes,
    PerSecond,
    TokensPerSecond,
    Nats,
    Cores,
}

impl Unit {
    fn name(self) -> &'static str {
        match self {
            Self::Number => "short",
            Self::Share => "percentunit",
            Self::Seconds => "s",
            Self::Bytes => "bytes",
            Self::PerSecond => "suffix:/s",
            Self::TokensPerSecond => "suffix: tokens/s",
            Self::Nats => "suffix: nats",
            Self::Cores => "suffix: cores",
        }
    }
}

/// A bound from which on values have a colour.
pub(crate) type Step = (Option<f64>, &'static str);

/// Any value but 0 is a fault.
pub(crate) const NONE_IS_GOOD: &[Step] = &[(None, "green"), (Some(1.0), "red")];

#[derive(Clone, Debug)]
pub struct Panel {
    pub title: &'static str,
    pub description: &'static str,
    pub queries: Vec<Query>,
    kind: Kind,
    unit: Unit,
    min: Option<f64>,
    max: Option<f64>,
    steps: &'static [Step],
    pub(crate) width: u32,
    pub(crate) height: u32,
}

impl Panel {
    fn new(kind: Kind, title: &'static str, description: &'static str) -> Self {
        Self {
            title,
            description,
            queries: Vec::new(),
            kind,
            unit: Unit::Number,
            min: None,
            max: None,
            steps: &[],
            width: 8,
            height: 8,
        }
    }

    pub(crate) fn stat(title: &'static str, description: &'static str) -> Self {
        Self { width: 6, height: 5, ..Self::new(Kind::Stat, title, description) }
    }

    pub(crate) fn lines(title: &'static str, description: &'static str) -> Self {
        Self::new(Kind::Lines, title, description)
    }

    pub(crate) fn stack(title: &'static str, description: &'static str) -> Self {
        Self::new(Kind::Stack, title, description).zero_based()
    }

    pub(crate) fn query(mut self, expression: impl Into<String>, legend: &str) -> Self {
        self.queries.push(Query { expression: expression.into(), legend: legend.to_owned() });
        self
    }

    pub(crate) fn unit(self, unit: Unit) -> Self {
        let bounded = unit == Unit::Share;
        let (min, max) = if bounded { (Some(0.0), Some(1.0)) } else { (self.min, self.max) };
        Self { unit, min, max, ..self }
    }

    pub(crate) fn zero_based(self) -> Self {
        Self { min: Some(0.0), ..self }
    }

    pub(crate) fn up_to(self, max: f64) -> Self {
        Self { max: Some(max), ..self }
    }

    pub(crate) fn coloured(self, steps: &'static [Step]) -> Self {
        Self { steps, ..self }
    }

    pub(crate) fn sized(self, width: u32, height: u32) -> Self {
        Self { width, height, ..self }
    }

    /// In Grafana's classic model.
    pub(crate) fn to_json(&self, id: usize, (x, y): (u32, u32)) -> Value {
        let kind = if self.kind == Kind::Stat { "stat" } else { "timeseries" };
        json!({
            "id": id,
            "type": kind,
            "title": self.title,
            "description": self.description,
            "datasource": datasource(),
            "gridPos": { "h": self.height, "w": self.width, "x": x, "y": y },
            "targets": self.targets(),
            "fieldConfig": { "defaults": self.defaults(), "overrides": [] },
            "options": self.options(),
        })
    }

    fn targets(&self) -> Vec<Value> {
        let letters = 'A'..='Z';
        let targets = letters.zip(&self.queries).map(|(letter, query)| {
            json!({
                "refId": letter.to_string(),
                "datasource": datasource(),
                "editorMode": "code",
                "expr": query.expression,
                "legendFormat": query.legend,
                "range": true,
            })
        });
        targets.collect()
    }

    fn defaults(&self) -> Value {
        let colour = if self.steps.is_empty() { "palette-classic" } else { "thresholds" };
        let steps = match self.steps {
            [] => vec![json!({ "color": "text", "value": null })],
            steps => {
                let step = |(value, colour): &Step| json!({ "color": colour, "value": value });
                steps.iter().map(step).collect()
            }
        };
        let mut defaults = json!({
            "unit": self.unit.name(),
            "color": { "mode": if self.kind == Kind::Stat { colour } else { "palette-classic" } },
            "thresholds": { "mode": "absolute", "steps": steps },
        });
        for (key, bound) in [("min", self.min), ("max", self.max)] {
            if let Some(bound) = bound {
                defaults[key] = json!(bound);
            }
        }
        if self.kind != Kind::Stat {
            defaults["custom"] = self.drawing();
        }
        defaults
    }

    fn drawing(&self) -> Value {
        let stacked = self.kind == Kind::Stack;
        json!({
            "drawStyle": "line",
            "lineWidth": 1,
            "fillOpacity": if stacked { 40 } else { 8 },
            "showPoints": "never",
            "spanNulls": false,
            "stacking": { "mode": if stacked { "normal" } else { "none" }, "group": "A" },
            "thresholdsStyle": { "mode": if self.steps.is_empty() { "off" } else { "dashed" } },
        })
    }

    fn options(&self) -> Value {
        if self.kind == Kind::Stat {
            return json!({
                "colorMode": "value",
                "graphMode": "area",
                "justifyMode": "auto",
                "orientation": "auto",
                "reduceOptions": { "calcs": ["lastNotNull"], "fields": "", "values": false },
                "textMode": "value_and_name",
            });
        }
        json!({
            "legend": {
                "calcs": ["lastNotNull"],
                "displayMode": "table",
                "placement": "bottom",
                "showLegend": true,
            },
            "tooltip": { "mode": "multi", "sort": "desc" },
        })
    }
}

pub(crate) fn datasource() -> Value {
    json!({ "type": "prometheus", "uid": DATASOURCE })
}
