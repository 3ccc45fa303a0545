//! GSM8K from the hub's parquet files and from plain JSON lines.

use std::sync::Arc;

use parquet::data_type::{ByteArray, ByteArrayType};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;

use crate::hub::Fault;
use crate::{Desk, read};

const DATASET: &str = "datasets/openai/gsm8k";

fn problem(number: usize) -> (String, String) {
    (format!("How many are {number} \"ducks\"?"), format!("<<{number}=>> ü\n#### {number}"))
}

fn parquet(rows: std::ops::Range<usize>) -> Vec<u8> {
    let schema =
        "message m { OPTIONAL BYTE_ARRAY question (UTF8); OPTIONAL BYTE_ARRAY answer (UTF8); }";
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let mut bytes = Vec::new();
    let properties = Arc::new(WriterProperties::builder().build());
    let mut writer = SerializedFileWriter::new(&mut bytes, schema, properties).unwrap();
    let mut group = writer.next_row_group().unwrap();
    for column in 0..2 {
        let values = rows.clone().map(problem);
        let values = values.map(|(q, a)| ByteArray::from([q, a][column].as_str()));
        let values: Vec<_> = values.collect();
        let mut writer = group.next_column().unwrap().unwrap();
        let levels = vec![1; values.len()];
        writer.typed::<ByteArrayType>().write_batch(&values, Some(&levels), None).unwrap();
        writer.close().unwrap();
    }
    group.close().unwrap();
    writer.close().unwrap();
    bytes
}

fn lines(rows: std::ops::Range<usize>) -> String {
    let line = |(question, answer)| {
        let (q, a) = (serde_json::json!(question), serde_json::json!(answer));
        format!("{{\"question\":{q},\"answer\":{a}}}\n")
    };
    rows.map(problem).map(line).collect()
}

fn get(desk: &Desk, more: &[&str]) -> crate::Ended {
    let args = ["data", "get", "gsm8k", "--retries", "0", "--retry-wait-ms", "1"];
    desk.run(&[&args, more].concat())
}

#[test]
fn the_hubs_parquet_files_become_json_lines() {
    let desk = Desk::new();
    let train = [parquet(0..4_000), parquet(4_000..7_473)];
    desk.hub.add(
        DATASET,
        &[
            ("main/test-00000-of-00001.parquet", &parquet(0..1_319)),
            ("main/train-00000-of-00002.parquet", &train[0]),
            ("main/train-00001-of-00002.parquet", &train[1]),
            ("socratic/train-00000-of-00001.parquet", b"unwanted"),
        ],
    );
    let ended = get(&desk, &[]).ok();
    let dir = ended.path();
    assert_eq!(dir, desk.dir.path().join("data/gsm8k"));
    assert_eq!(String::from_utf8(read(&dir.join("train.jsonl"))).unwrap(), lines(0..7_473));
    assert_eq!(String::from_utf8(read(&dir.join("test.jsonl"))).unwrap(), lines(0..1_319));
    assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 2);
    get(&desk, &[]).says(&["data/gsm8k is not empty"]);
}

#[test]
fn another_number_of_problems_is_refused() {
    let desk = Desk::new();
    let (train, test) = (parquet(0..7_472), parquet(0..1_319));
    let test = ("main/test-00000-of-00001.parquet", test.as_slice());
    desk.hub.add(DATASET, &[("main/train-00000-of-00001.parquet", &train), test]);
    let words = ["the train split: has 7472 problems where 7473 were published"];
    get(&desk, &["--out", "out"]).says(&words);
    assert_eq!(std::fs::read_dir(desk.dir.path().join("out")).unwrap().count(), 0);
    desk.hub.add(DATASET, &[("main/train-00000-of-00001.parquet", b"PAR1 no"), test]);
    get(&desk, &["--out", "out"]).says(&["cannot be read as a parquet file"]);
    desk.hub.add(DATASET, &[test]);
    get(&desk, &["--out", "out"]).says(&["no files main/train-*.parquet", "--url"]);
}

#[test]
fn json_lines_come_as_they_are() {
    let desk = Desk::new();
    let (train, test) = (lines(0..7_473), lines(0..1_319));
    desk.hub.add(DATASET, &[("train.jsonl", train.as_bytes()), ("test.jsonl", test.as_bytes())]);
    let commit = crate::hub::COMMIT;
    let url = format!("{}/datasets/openai/gsm8k/resolve/{commit}/", desk.hub.endpoint);
    desk.hub.fault("train.jsonl", Fault::Status { status: 502, code: "", times: 1 });
    get(&desk, &["--url", &url]).says(&["answered 502"]);
    let dir = get(&desk, &["--url", &url]).ok().path();
    assert_eq!(String::from_utf8(read(&dir.join("test.jsonl"))).unwrap(), test);
    let nowhere = format!("{url}absent");
    get(&desk, &["--url", &nowhere, "--out", "x"]).says(&["there is no", "absent/train.jsonl"]);
}
