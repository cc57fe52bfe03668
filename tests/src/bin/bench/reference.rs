//! Ratios to native ext4 that others reached; measured once on Linux 6.18 with two cores, printed for comparison.

/// What a row of the table is compared with.
pub(crate) struct Reference {
    /// The phase.
    pub(crate) phase: &'static str,
    /// A bare pass-through in Rust: `default_permissions`, FUSE passthrough, one write to a log for each change.
    pub(crate) bare: f64,
    /// The same with every trick, at the price of some checks.
    pub(crate) tuned: f64,
}

const fn row(phase: &'static str, bare: f64, tuned: f64) -> Reference {
    Reference { phase, bare, tuned }
}

/// All rows.
pub(crate) const REFERENCES: &[Reference] = &[
    row("create", 5.1, 3.4),
    row("read", 4.1, 3.0),
    row("overwrite", 1.4, 1.15),
    row("rewrite + fsync", 1.4, 1.4),
    row("delete", 2.5, 2.1),
    row("large: seq. write", 1.03, 1.03),
    row("large: seq. read", 1.1, 1.06),
    row("large: random write", 1.16, 1.14),
    row("large: random read", 1.13, 1.08),
    row("untar", 4.3, 3.3),
    row("walk (find), warm", 2.4, 2.5),
    row("C build (zstd)", 1.0, 1.0),
    row("rm -rf", 2.7, 2.4),
];

/// The row of a phase.
pub(crate) fn of(phase: &str) -> Option<&'static Reference> {
    REFERENCES.iter().find(|row| row.phase == phase)
}
