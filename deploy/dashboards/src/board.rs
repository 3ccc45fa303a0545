//! One dashboard: its variables, and its rows of panels put side by side, as Grafana's classic model
//! (schema 42), which Grafana 11 to 13 read.

use serde_json::{Map, Value, json};
use telemetry::Metric;

use crate::panel::{Panel, datasource};

const SCHEMA_VERSION: u32 = 42;

/// Of a row, in Grafana's units.
const WIDTH: u32 = 24;

/// What is chosen at the top, from the values of a label.
#[derive(Clone, Debug)]
pub struct Variable {
    pub name: &'static str,
    title: &'static str,
    /// Series that have the label of that name.
    pub of: String,
    /// Several at once, all at first.
    several: bool,
}

impl Variable {
    /// The run; every dashboard has it.
    pub(crate) fn run() -> Self {
        let of = coordinator::metrics::STEP.name().to_owned();
        Self { name: "job", title: "Run", of, several: false }
    }

    pub(crate) fn role() -> Self {
        Self { name: "role", title: "Role", of: r#"up{job="$job"}"#.to_owned(), several: true }
    }

    pub(crate) fn process() -> Self {
        let of = r#"up{job="$job",role=~"$role"}"#.to_owned();
        Self { name: "name", title: "Process", of, several: true }
    }

    fn to_json(&self) -> Value {
        let query = format!("label_values({}, {})", self.of, self.name);
        let mut variable = json!({
            "name": self.name,
            "label": self.title,
            "type": "query",
            "datasource": datasource(),
            "definition": query,
            "query": { "qryType": 1, "query": query, "refId": "Variable" },
            // When the time range changes, too.
            "refresh": 2,
            "sort": 1,
            "hide": 0,
            "includeAll": self.several,
            "multi": self.several,
            "current": {},
            "options": [],
        });
        if self.several {
            variable["allValue"] = json!(".*");
            variable["current"] = json!({ "text": ["All"], "value": ["$__all"] });
        }
        variable
    }
}

/// Panels under one heading.
#[derive(Clone, Debug)]
pub struct Row {
    pub title: &'static str,
    pub panels: Vec<Panel>,
}

#[derive(Clone, Debug)]
pub struct Board {
    pub uid: &'static str,
    pub title: &'static str,
    pub description: &'static str,
    pub variables: Vec<Variable>,
    pub rows: Vec<Row>,
}

impl Board {
    /// The file that Grafana is given.
    #[must_use]
    pub fn to_text(&self) -> String {
        let text = serde_json::to_string_pretty(&in_order(self.to_json()));
        text.expect("names and numbers have a JSON form") + "\n"
    }

    fn to_json(&self) -> Value {
        let variables: Vec<Value> = self.variables.iter().map(Variable::to_json).collect();
        json!({
            "uid": self.uid,
            "title": self.title,
            "description": self.description,
            "tags": ["tandem"],
            "schemaVersion": SCHEMA_VERSION,
            "version": 1,
            "editable": false,
            "graphTooltip": 1,
            "timezone": "browser",
            "refresh": "10s",
            "time": { "from": "now-1h", "to": "now" },
            "annotations": { "list": [] },
            "links": [{
                "type": "dashboards",
                "title": "tandem",
                "tags": ["tandem"],
                "asDropdown": false,
                "includeVars": true,
                "keepTime": true,
            }],
            "templating": { "list": variables },
            "panels": self.panels(),
        })
    }

    /// From left to right; what does not fit begins a line of its own.
    fn panels(&self) -> Vec<Value> {
        let (mut placed, mut y) = (Vec::new(), 0);
        for row in &self.rows {
            let id = placed.len() + 1;
            placed.push(json!({
                "id": id,
                "type": "row",
                "title": row.title,
                "collapsed": false,
                "gridPos": { "h": 1, "w": WIDTH, "x": 0, "y": y },
                "panels": [],
            }));
            y += 1;
            let (mut x, mut height) = (0, 0);
            for panel in &row.panels {
                if x + panel.width > WIDTH {
                    (x, y, height) = (0, y + height, 0);
                }
                placed.push(panel.to_json(placed.len() + 1, (x, y)));
                x += panel.width;
                height = height.max(panel.height);
            }
            y += height;
        }
        placed
    }
}

/// Keys sorted, whichever order the JSON library keeps.
fn in_order(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let mut entries: Vec<_> = map.into_iter().collect();
            entries.sort_by(|(a, _), (b, _)| a.cmp(b));
            let entries = entries.into_iter().map(|(key, value)| (key, in_order(value)));
            Value::Object(entries.collect::<Map<_, _>>())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(in_order).collect()),
        other => other,
    }
}
