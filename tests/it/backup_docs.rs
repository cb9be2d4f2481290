//! The chapter on backups: its blocks, but for the one that only systemd can run, one after the other on one machine, and what each of them says.

use crate::backup::filled;
use crate::documents::{Machine, blocks};

#[tokio::test(flavor = "multi_thread")]
async fn every_command_about_backups_does_what_the_chapter_says() {
    let machine = Machine::new().await;
    filled(&machine.data()).await.close().await;
    machine.sure("systemctl start hairpin");
    let mut blocks = blocks("docs/backup.md");
    blocks.retain(|block| !block.lines[0].contains("systemd-run"));
    assert_eq!(blocks.len(), 4);
    for (block, word) in blocks.iter().zip([
        "Only its passphrase opens it.",
        "Set aside: ",
        "is sound.",
        "Set aside: ",
    ]) {
        let out = machine.sure(&block.lines.join("\n"));
        assert!(out.contains(word), "{word}: {out}");
    }
    // Started over: nothing of the old store is left in the way, and all of it is there.
    let status = machine.sure("hairpin status");
    assert!(status.starts_with("salon  UNLINKED"), "{status}");
    let data = std::fs::read_dir(machine.data()).expect("a folder");
    let aside = data.filter(|entry| {
        let name = entry.as_ref().expect("an entry").file_name();
        name.to_string_lossy().starts_with("hairpin.redb.20")
    });
    assert_eq!(aside.count(), 2);
    machine.end();
}
