//! Programs that ask much of a file system, on a client's mount.

use crate::{AGREE, LIMIT};
use anyhow::{Result, ensure};
use intermezzo_tests::{
    cluster::with_clients,
    shell::{cmd, sh},
    sources,
};
use std::{fs, path::Path, time::Duration};

const LONG: Duration = Duration::from_secs(60);

fn repository(dir: &Path) -> Result<()> {
    fs::create_dir_all(dir)?;
    let script = "git init -q -b main .; git config user.email a@example.org; git config user.name a
        for crate in \"$@\"; do cp -r \"$crate\" .; git add -A -f; git commit -q -m \"$crate\"; done";
    let crates = ["serde", "itoa", "bytes"].map(sources::crate_dir).into_iter().collect::<Result<Vec<_>>>()?;
    sh(script, crates).dir(dir).timeout(LONG).ok().map(drop)
}

#[test]
fn git_works_on_a_client_and_at_its_holder_and_on_another_client_nothing_is_wrong() -> Result<()> {
    with_clients(
        (2, &[], LIMIT),
        |_| Ok(()),
        |cluster| {
            let (a, b, c) = (&cluster[0], &cluster[1], &cluster[2]);
            let origin = cluster.path().join("origin");
            repository(&origin)?;
            let git = |dir: &Path, script| sh(script, [""; 0]).dir(dir).timeout(LONG).ok();
            cmd("git", ["clone", "-q"]).arg(&origin).arg(b.at("work")).timeout(LONG).ok()?;
            git(
            &b.at("work"),
            "git config user.email b@example.org; git config user.name b
            first=$(git rev-list --max-parents=0 HEAD); git checkout -q \"$first\"; git checkout -q main
            git checkout -q -b topic; echo more > new; git add new; git commit -q -m topic; git checkout -q main
            git merge -q --no-edit topic; git gc -q --prune=now; git fsck --strict; test -z \"$(git status --porcelain)\"",
        )?;
            cluster.clients_agree(AGREE)?;
            let clean = "git fsck --strict; test -z \"$(git status --porcelain)\"; git log --oneline | grep -q topic";
            git(&a.at("work"), clean)?;
            git(&c.at("work"), clean)?;
            git(&c.at("work"), "echo of c > new; git commit -q -a -m 'from c'")?;
            cluster.clients_agree(AGREE)?;
            let log = git(&b.at("work"), "git fsck --strict; git log --oneline")?;
            ensure!(log.contains("from c"), "b has not the commit of c: {log}");
            Ok(())
        },
    )
}

#[test]
fn a_program_is_built_from_absent_sources_and_runs_at_the_holder() -> Result<()> {
    let fill = |store: &Path| {
        let script = "cd \"$1\"; mkdir src
            for i in $(seq 40); do echo \"int f$i(int x) { return x + $i; }\" > src/f$i.c; echo \"int f$i(int);\" >> src/all.h; done
            { echo '#include \"all.h\"'; echo '#include <stdio.h>'; echo 'int main(void) { int x = 0;'
              for i in $(seq 40); do echo \"x = f$i(x);\"; done; echo 'printf(\"%d\\\\n\", x); return 0; }'; } > src/main.c
            printf 'O = $(patsubst src/%%.c,%%.o,$(wildcard src/*.c))\\nsum: $O\\n\\tcc -o $@ $O\\n%%.o: src/%%.c src/all.h\\n\\tcc -c -o $@ $<\\n' > Makefile";
        sh(script, [store]).ok().map(drop)
    };
    with_clients((1, &[], LIMIT), fill, |cluster| {
        let (a, b) = (&cluster[0], &cluster[1]);
        let output = sh("make -s -j4 && ./sum", [""; 0]).dir(b.mount()).timeout(LONG).ok()?;
        ensure!(output == "820\n", "on the client it says {output:?}");
        cluster.clients_agree(AGREE)?;
        let output = sh("make -s && ./sum", [""; 0]).dir(a.mount()).timeout(LONG).ok()?;
        ensure!(output == "820\n", "at the holder it says {output:?}");
        let again = sh("make -q", [""; 0]).dir(b.mount()).run()?;
        ensure!(again.code() == 0, "the client would build again: {}{}", again.stdout, again.stderr);
        Ok(())
    })
}
