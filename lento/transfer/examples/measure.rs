//! Measures transfers between two stores in one process, a thread each, without a network:
//! `cargo run --release -p lento-transfer --example measure DIR`, DIR being on ext4 with a journal.

use lento_store::{Bottom, Store, StoreConfig};
use lento_transfer::{CompareOptions, Comparer, Fetched, ManifestReader, Receiver, list, manifest, serve};
use protocol::{FileSetId, HostId, ObjectId, Position, Wanted};
use std::{
    error::Error,
    fs::{self, File, OpenOptions},
    io::Write,
    path::Path,
    sync::{
        Arc,
        mpsc::{Receiver as Bodies, SyncSender, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Packets under way.
const CREDIT: usize = 32;

fn config(dir: &Path, number: u32) -> Result<StoreConfig> {
    let index = dir.join(format!("index{number}"));
    Ok(StoreConfig {
        fileset: FileSetId::from_bytes([1; 16]),
        host: HostId::new(number)?,
        index,
        keep_received: false,
        on_demand: false,
    })
}

fn bottom(path: &Path) -> Result<Arc<Bottom>> {
    Ok(Arc::new(Bottom::new(File::open(path)?.into())?))
}

/// Sends the bodies of one answer from a thread of their own.
fn answer(work: impl FnOnce(&SyncSender<Vec<u8>>) + Send + 'static) -> Bodies<Vec<u8>> {
    let (to, from) = sync_channel(CREDIT);
    thread::spawn(move || work(&to));
    from
}

fn fetch_into(source: &Arc<Store>, receiver: &mut Receiver) -> Result<usize> {
    let mut wire = 0;
    while let Some(wanted) = receiver.next_round()? {
        let source = source.clone();
        let bodies = answer(move |to| {
            let sent = serve(&source, &wanted as &[Wanted], true, &mut |body| {
                to.send(body).map_err(|_| lento_transfer::Stopped)
            });
            if let Err(why) = sent {
                eprintln!("serving failed: {why}");
            }
        });
        for body in bodies {
            wire += body.len();
            receiver.take(&body)?;
        }
    }
    Ok(wire)
}

fn copy(source: &Arc<Store>, to: &Arc<Store>) -> Result<(Duration, Duration, usize)> {
    let started = Instant::now();
    let mut comparer = Comparer::new(to.clone(), ObjectId::ROOT, source.config().host, CompareOptions::default());
    let lister = source.clone();
    let bodies = answer(move |to| {
        let listed =
            list(&lister, ObjectId::ROOT, true, &mut |body| to.send(body).map_err(|_| lento_transfer::Stopped));
        if let Err(why) = listed {
            eprintln!("listing failed: {why}");
        }
    });
    let mut wanted = Vec::new();
    for body in bodies {
        comparer.take(&body)?;
        wanted.extend(comparer.take_wanted());
    }
    let listed = started.elapsed();
    let mut wire = 0;
    let (mut fetched, mut synced, mut committed) = (Duration::ZERO, Duration::ZERO, Duration::ZERO);
    for ids in wanted.chunks(2048) {
        let mut receiver = Receiver::for_comparison(to.clone(), ids.to_vec());
        let begun = Instant::now();
        wire += fetch_into(source, &mut receiver)?;
        fetched += begun.elapsed();
        let begun = Instant::now();
        let contents = receiver.finish();
        synced += begun.elapsed();
        let begun = Instant::now();
        comparer.content(contents)?;
        committed += begun.elapsed();
    }
    let begun = Instant::now();
    let report = comparer.finish(Position::START)?;
    let finished = begun.elapsed();
    let begun = Instant::now();
    to.sync()?;
    println!(
        "  fetch {fetched:?}, sync {synced:?}, commit {committed:?}, finish {finished:?}, last sync {:?}",
        begun.elapsed()
    );
    if !report.failed.is_empty() {
        return Err(format!("{} contents failed", report.failed.len()).into());
    }
    Ok((listed, started.elapsed(), wire))
}

fn noise(file: &mut impl Write, bytes: usize, seed: u64) -> Result<()> {
    let mut xof = blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof();
    let mut buffer = vec![0; 1 << 20];
    let mut left = bytes;
    while left > 0 {
        xof.fill(&mut buffer);
        let len = left.min(buffer.len());
        file.write_all(&buffer[..len])?;
        left -= len;
    }
    Ok(())
}

fn fresh(dir: &Path) -> Result<std::path::PathBuf> {
    let _ = fs::remove_dir_all(dir);
    fs::create_dir_all(dir)?;
    Ok(dir.to_owned())
}

fn small_files(dir: &Path) -> Result<()> {
    let from = fresh(&dir.join("small-a"))?;
    for d in 0..100 {
        fs::create_dir(from.join(format!("d{d}")))?;
        for f in 0..100 {
            noise(&mut File::create(from.join(format!("d{d}/f{f}")))?, 1024, d * 100 + f)?;
        }
    }
    let source = Arc::new(Store::adopt(bottom(&from)?, config(dir, 1)?, &mut |_| {})?);
    let started = Instant::now();
    let mut bytes = 0;
    list(&source, ObjectId::ROOT, true, &mut |body| {
        bytes += body.len();
        Ok(())
    })?;
    println!("list of 10,000 files: {:?}, {bytes} bytes", started.elapsed());
    for run in 0..3 {
        let to = Arc::new(Store::create(bottom(&fresh(&dir.join(format!("small-b{run}")))?)?, config(dir, 2)?)?);
        let (listed, all, wire) = copy(&source, &to)?;
        println!("10,000 files of 1 KiB: {all:?} (listed after {listed:?}), {wire} bytes of content packets");
        let (_, again, _) = copy(&source, &to)?;
        println!("the same again: {again:?}");
    }
    let started = Instant::now();
    let mut bodies = Vec::new();
    manifest(source.bottom(), &mut |body| {
        bodies.push(body);
        Ok(())
    })?;
    println!("manifest: {:?}, {} entries", started.elapsed(), ManifestReader::new(bodies.into_iter()).count());
    Ok(())
}

fn large_file(dir: &Path) -> Result<()> {
    let from = fresh(&dir.join("large-a"))?;
    noise(&mut File::create(from.join("f"))?, 1 << 30, 1)?;
    let source = Arc::new(Store::adopt(bottom(&from)?, config(dir, 3)?, &mut |_| {})?);
    let to = Arc::new(Store::create(bottom(&fresh(&dir.join("large-b"))?)?, config(dir, 4)?)?);
    source.bottom().sync()?;
    let (_, all, _) = copy(&source, &to)?;
    println!("1 GiB: {all:?}");
    noise(&mut OpenOptions::new().append(true).open(from.join("f"))?, 1 << 20, 2)?;
    drop(source);
    let (source, _) = Store::rebuild(bottom(&from)?, config(dir, 3)?, &mut |_| {})?;
    let source = Arc::new(source);
    let id = ObjectId::new(HostId::new(3)?, ObjectId::ADOPTED);
    let started = Instant::now();
    let mut receiver = Receiver::new(to.clone(), vec![id]);
    let wire = fetch_into(&source, &mut receiver)?;
    let results = receiver.finish();
    println!("append of 1 MiB to 1 GiB: {:?}, {wire} bytes on the wire", started.elapsed());
    if !matches!(results[..], [(_, Fetched::Staged { .. })]) {
        return Err(format!("{results:?}").into());
    }
    Ok(())
}

fn main() -> Result<()> {
    let dir = std::env::args().nth(1).ok_or("usage: measure DIR")?;
    small_files(Path::new(&dir))?;
    large_file(Path::new(&dir))
}
