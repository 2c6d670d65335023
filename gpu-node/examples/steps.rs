use gpu_node::backend::*; use gpu_node::engine::*; use gpu_node::model::ModelFolder; use std::time::Instant;
fn main() {
    let folder = ModelFolder::open(std::path::Path::new("/tmp/m8"), 2, &|_| ()).unwrap();
    for threads in [1] {
    let mut d = Decoder::load(&folder, CpuBackend::new(threads), 2048, 512).unwrap();
    let mut pool = d.pool(1200).unwrap();
    let tables: Vec<Vec<PageId>> = (0..128).map(|s| (0..8).map(|p| PageId(s * 8 + p)).collect()).collect();
    for t in tables.iter().flatten() { d.prepare(&mut pool, *t).unwrap(); }
    let refs: Vec<&[PageId]> = tables.iter().map(|t| t.as_slice()).collect();
    let mut out = StepOutput::default();
    for batch in [128usize] {
        let mut best = vec![];
        for pos in 100..130 {
            let rows: Vec<Row> = (0..batch).map(|s| Row { sequence: s, position: pos }).collect();
            let chosen: Vec<usize> = (0..batch).collect();
            let t = Instant::now();
            d.step(&Placement { rows: &rows, tables: &refs }, &vec![5; batch], &mut pool, &chosen, &mut out);
            best.push(t.elapsed().as_micros());
        }
        best.sort();
        println!("threads {threads} batch {batch}: median {} us", best[best.len() / 2]);
    }
    }
}
