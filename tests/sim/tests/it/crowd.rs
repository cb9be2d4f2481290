//! Owns the proof that it holds many at once, and that everybody gets his own.

use hairpin_sim::Sim;
use tokio::task::JoinSet;

use crate::companion::Companion;

const MANY: u64 = 20;

#[tokio::test(flavor = "multi_thread")]
async fn many_at_once_each_get_their_own_code_and_link() {
    let sim = Sim::start().await;
    let mut all = JoinSet::new();
    for n in 0..MANY {
        let sim = sim.clone();
        all.spawn(async move {
            let number = format!("790000{n:05}");
            let companion = Companion::start(&sim.url()).await;
            let code = companion.ask(&number).await.unwrap();
            sim.phone(&number).enter_code(&code).await.unwrap();
            companion.connected().await;
            assert_eq!(sim.phone(&number).devices().len(), 1);
            companion
        });
    }
    let companions = all.join_all().await;
    assert_eq!(sim.open_connections(), companions.len());
    assert_eq!(sim.total_connections(), 2 * MANY);
}
