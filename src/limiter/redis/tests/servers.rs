//! Clusters and Sentinels.

use super::*;

/// A cluster of two nodes, each with half of the slots.
fn cluster() -> [Redis; 2] {
    let nodes = [Redis::of_cluster(), Redis::of_cluster()];
    let halves = ["0 8191", "8192 16383"];
    for (node, half) in nodes.iter().zip(halves) {
        let _: () = node.run(&format!("CLUSTER ADDSLOTSRANGE {half}"));
    }
    let bus = nodes[1].bus_port();
    let _: () = nodes[0].run(&format!("CLUSTER MEET 127.0.0.1 {} {bus}", nodes[1].port()));
    wait_until(|| {
        nodes.iter().all(|node| {
            let info: String = node.run("CLUSTER INFO");
            info.contains("cluster_state:ok") && info.contains("cluster_known_nodes:2")
        })
    });
    nodes
}

#[test]
fn a_cluster_keeps_each_group_on_one_of_its_nodes() {
    let nodes = cluster();
    let url = format!(
        "redis+cluster://{},{}",
        nodes[0].address(),
        nodes[1].address()
    );
    let limiter = redis_at(&url, Clock::system());
    let rules = limits(&["2/h", "9 daily", "9 concurrent"]);
    for id in 1..=20 {
        let client = Client::new(&limiter, id);
        let admitted = (0..5).filter(|_| client.admits(&rules, 1)).count();
        assert_eq!(admitted, 2, "{:?}", limiter.status().conditions);
    }
    let keys = nodes.each_ref().map(|node| {
        let counters: Vec<String> = node.run("KEYS {kg:*:o*");
        counters.len()
    });
    assert!(
        keys[0] > 0 && keys[1] > 0 && keys[0] + keys[1] == 60,
        "{keys:?}"
    );
}

#[test]
fn room_in_a_cluster_is_announced_by_each_node_to_all() {
    let nodes = cluster();
    let clock = ManualClock::starting_at(JANUARY_31);
    let open_at = |node: &Redis| {
        let url = format!("redis+cluster://{}", node.address());
        subscribed(&url, &clock)
    };
    let limiters = nodes.each_ref().map(open_at);
    let rules = limits(&["1/h"]);
    for id in 1..=8 {
        let [one, other] = limiters.each_ref().map(|limiter| Client::new(limiter, id));
        assert!(one.admits(&rules, 1));
        assert!(!other.admits(&rules, 1));
        one.reset(&rules);
        wait_until(|| other.admits(&rules, 1));
    }
}

#[test]
fn moved_slots_of_a_cluster_are_followed() {
    let nodes = cluster();
    let url = format!("redis+cluster://{}", nodes[0].address());
    let limiter = redis_at(&url, Clock::system());
    let rules = limits(&["1/h"]);
    assert!(Client::new(&limiter, 1).admits(&rules, 1));
    let _: () = nodes[0].run("FLUSHALL");
    let _: () = nodes[1].run("FLUSHALL");
    move_all_slots(&nodes);
    let mut ids = 1..;
    for _ in 0..20 {
        // A busy node may consider the other one dead for a moment. A request whose reply is lost then is
        // counted, so it is not sent again.
        let mut admitted = None;
        wait_until(|| {
            let client = Client::new(&limiter, ids.next().unwrap());
            admitted = client.admits(&rules, 1).then_some(client);
            admitted.is_some()
        });
        assert!(!admitted.unwrap().admits(&rules, 1));
    }
    assert!(nodes[1].run::<usize>("DBSIZE") >= 20);
}

#[test]
fn a_cluster_is_down_until_the_server_that_refused_a_write_accepts_one() {
    let nodes = cluster();
    let url = format!("redis+cluster://{}", nodes[0].address());
    let limiter = open(&url, Duration::from_secs(1), Fallback::Local);
    let health = || limiter.status().health.unwrap();
    let rules = limits(&["99 credits"]);
    wait_until(|| health().is_up);
    for node in &nodes {
        let _: () = node.run("CONFIG SET maxmemory 1");
        // Some of the groups are on this node.
        let mut ids = 1..;
        wait_until(|| {
            Client::new(&limiter, ids.next().unwrap()).admit(&rules, 1);
            !health().is_up
        });
        assert_steadily_down(&limiter, node, "OOM");
        let _: () = node.run("CONFIG SET maxmemory 0");
        wait_until(|| health().is_up);
    }
}

/// Moves all slots of the first node, which are empty, to the second.
fn move_all_slots(nodes: &[Redis; 2]) {
    let second: String = nodes[1].run("CLUSTER MYID");
    // With the later epoch, the second node keeps a slot when an older message of the first claims it.
    let _: String = nodes[1].run("CLUSTER BUMPEPOCH");
    let mut connections = nodes.each_ref().map(Redis::connect);
    for slot in 0..8192 {
        for connection in &mut connections {
            let mut command = redis::cmd("CLUSTER");
            command.arg("SETSLOT").arg(slot).arg("NODE").arg(&second);
            let _: () = command.query(connection).unwrap();
        }
    }
}

#[test]
fn sentinels_name_the_master() {
    let server = Redis::start();
    let sentinel = Redis::sentinel("main", &server);
    let url = format!("redis+sentinel://{}/main/3", sentinel.address());
    let limiter = redis_at(&url, Clock::system());
    wait_until(|| limiter.client.is_subscribed());
    let client = Client::new(&limiter, 1);
    assert!(client.admits(&limits(&["1/h"]), 1));
    assert!(!client.admits(&limits(&["1/h"]), 1));
    let info: String = server.run("INFO keyspace");
    assert!(info.contains("db3:keys="), "{info}");
}

#[test]
fn an_invalid_url_is_refused() {
    for url in [
        "redis+sentinel://h:1",
        "redis+cluster://",
        "redis+other://h:1",
    ] {
        let local = memory(Clock::system());
        let secret = "a secret".into();
        let refused = RedisLimiter::open(url, &secret, TIMEOUT, Fallback::Deny, local);
        assert!(refused.is_err(), "{url}");
    }
}
