//! temporary
use candle_core::*;
use model::*;
fn cpu() -> f64 {
    let s = std::fs::read_to_string("/proc/self/stat").unwrap();
    let f: Vec<&str> = s.rsplit(')').next().unwrap().split_whitespace().collect();
    (f[11].parse::<f64>().unwrap() + f[12].parse::<f64>().unwrap()) / 100.0
}
fn main() {
    let p = Placement::cpu(DType::F32);
    let files = ModelSource::parse("fresh:miniature-strong").unwrap().load(1, &p).unwrap();
    let vars: Vec<(String, Var)> =
        files.tensors.iter().map(|(n, t)| (n.clone(), Var::from_tensor(t).unwrap())).collect();
    let d = Decoder::new(
        files.config.clone(),
        vars.iter().map(|(n, v)| (n.clone(), v.as_tensor().clone())).collect(),
    )
    .unwrap();
    let (b, t) = (64usize, 60usize);
    let ids: Vec<u32> = (0..b * t).map(|i| (i * 7919 % 142) as u32).collect();
    let tokens = Tensor::from_vec(ids.clone(), (b, t), &Device::Cpu).unwrap();
    let mut sel = vec![];
    let mut tgt = vec![];
    for r in 0..b {
        let len = 36 + (r * 5) % 24;
        for q in len - 19..len - 1 {
            sel.push((r * t + q) as u32);
            tgt.push(ids[r * t + q + 1]);
        }
    }
    for (name, sel) in [("ragged", sel.clone()), ("full", (0..(b * t) as u32).collect())] {
        let tgt: Vec<u32> = sel.iter().map(|i| ids[(*i as usize + 1) % (b * t)]).collect();
        let n = sel.len();
        let (sel, tgt) =
            (Tensor::new(sel, &Device::Cpu).unwrap(), Tensor::new(tgt, &Device::Cpu).unwrap());
        let (mut f, mut k) = (0.0, 0.0);
        for i in 0..6 {
            let a = cpu();
            let l = d.logits(&tokens, &sel).unwrap();
            let loss = logprobs(&l, &tgt, 1.0, &[1]).unwrap().mean_all().unwrap();
            let m = cpu();
            let g = loss.backward().unwrap();
            let z = cpu();
            std::hint::black_box(g);
            if i > 0 {
                f += m - a;
                k += z - m;
            }
        }
        println!("{name}: n={n} forward {:.1} ms backward {:.1} ms", f / 5.0 * 1e3, k / 5.0 * 1e3);
    }
    for rows in [1usize, 8, 32, 64] {
        let mut e = RaggedEngine::new(&d, rows, 80).unwrap();
        let a = cpu();
        let mut n = 0;
        let mut reps = 0;
        while cpu() - a < 1.0 {
            for r in 0..rows {
                e.clear(r).unwrap();
            }
            let prompt: Vec<u32> = ids[..25].to_vec();
            let i: Vec<RowInput> =
                (0..rows).map(|row| RowInput { row, tokens: &prompt, want: Want::Last }).collect();
            e.step(&i).unwrap();
            for s in 0..20 {
                let i: Vec<RowInput> = (0..rows)
                    .map(|row| RowInput {
                        row,
                        tokens: &ids[s * 7 + row..s * 7 + row + 1],
                        want: Want::Last,
                    })
                    .collect();
                let o = e.step(&i).unwrap();
                let l = o.logits.to_vec2::<f32>().unwrap();
                let st = SamplerSettings {
                    temperature: 1.0,
                    top_p: 1.0,
                    banned: vec![],
                    stops: vec![1],
                };
                for r in &l {
                    std::hint::black_box(sample(r, &st, 0.3).unwrap());
                }
                n += rows;
            }
            reps += 1;
        }
        println!(
            "decode rows={rows}: {:.0} tok/cpu-s (prefill of 25 included once per 20)",
            n as f64 / (cpu() - a)
        );
        let _ = reps;
    }
}
