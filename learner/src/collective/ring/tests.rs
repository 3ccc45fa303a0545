//! Several ranks on threads of one process, over loopback.

use std::net::{TcpListener, TcpStream};

use ::tests::{Files, TestAuthority};
use security::Guard;

use super::*;
use crate::collective::fixtures::{on_ranks, plans};

const SOON: Duration = Duration::from_secs(20);

/// A rank's own values: whole numbers, whose sums are exact.
fn own(rank: usize, len: usize) -> Vec<f32> {
    (0..len).map(|i| ((i * 7 + rank * 13) % 101) as f32 - 50.0).collect()
}

fn sum(world: usize, len: usize) -> Vec<f32> {
    let ranks: Vec<Vec<f32>> = (0..world).map(|rank| own(rank, len)).collect();
    (0..len).map(|i| ranks.iter().map(|values| values[i]).sum()).collect()
}

#[test]
fn every_rank_gets_the_sums_whatever_the_length() {
    for world in [2, 3, 4] {
        // Shorter than the ring, uneven, and longer than a socket's buffers.
        let lens = [0, 1, 3, 10, 400_001];
        let found = on_ranks(plans(world, SOON), |mut ring| {
            assert_eq!((ring.world(), ring.generation()), (world, Generation(4)));
            let mut of = |len| {
                let mut values = own(ring.rank(), len);
                ring.all_reduce_sum(&mut values).unwrap();
                let mut wide = [0.1, ring.rank() as f64];
                ring.all_reduce_sum_f64(&mut wide).unwrap();
                ring.barrier().unwrap();
                (values, wide[1])
            };
            lens.map(&mut of)
        });
        for (len, at) in lens.into_iter().zip(0..) {
            let expected = (sum(world, len), (0..world).sum::<usize>() as f64);
            assert!(found.iter().all(|rank| rank[at] == expected), "{world} ranks, {len} values");
        }
    }
}

#[test]
fn scattered_sums_gathered_again_are_the_sums() {
    for world in [2, 3] {
        let len = 1000;
        let found = on_ranks(plans(world, SOON), |mut ring| {
            let (rank, part) = (ring.rank(), shard(len, ring.rank(), world));
            let mut values = own(rank, len);
            ring.reduce_scatter_sum(&mut values).unwrap();
            let mine = values[part.clone()].to_vec();
            // What is not this rank's own must come from the others.
            values.fill(f32::NAN);
            values[part].copy_from_slice(&mine);
            ring.all_gather(&mut values).unwrap();
            (rank, mine, values)
        });
        let expected = sum(world, len);
        for (rank, mine, gathered) in found {
            assert_eq!(mine, expected[shard(len, rank, world)]);
            assert_eq!(gathered, expected);
        }
    }
}

#[test]
fn sums_that_round_are_the_same_bits_on_all_ranks() {
    let found = on_ranks(plans(3, SOON), |mut ring| {
        let rank = ring.rank() as f32;
        let mut values: Vec<f32> =
            (0..97).map(|i| (i as f32 * 0.37 + rank * 1.7).sin() * 10f32.powf(rank)).collect();
        ring.all_reduce_sum(&mut values).unwrap();
        values.into_iter().map(f32::to_bits).collect::<Vec<u32>>()
    });
    assert!(found[0] == found[1] && found[1] == found[2]);
}

#[test]
fn a_rank_that_is_gone_is_named_to_all() {
    let found = on_ranks(plans(4, SOON), |mut ring| {
        if ring.rank() == 2 {
            return None;
        }
        let mut values = own(ring.rank(), 1000);
        Some(format!("{:#}", ring.all_reduce_sum(&mut values).unwrap_err()))
    });
    // Rank 1 may find its letter box closed before it hears from its own neighbour.
    for rank in [0, 1, 3] {
        let text = found[rank].as_ref().unwrap();
        assert!(text.contains("rank 2 failed in collective call 1"), "rank {rank}: {text}");
    }
    assert!(found[3].as_ref().unwrap().contains("rank 2 has closed its connection"), "{found:?}");
}

#[test]
fn a_rank_that_hangs_is_named_when_the_deadline_has_passed() {
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let go = std::sync::Mutex::new(Some(go));
    let found = on_ranks(plans(2, Duration::from_millis(50)), |mut ring| {
        if ring.rank() == 1 {
            // Until the other has given up.
            let _ = wait.lock().unwrap().recv_timeout(SOON);
            return None;
        }
        let error = format!("{:#}", ring.all_reduce_sum(&mut [1.0, 2.0]).unwrap_err());
        drop(go.lock().unwrap().take());
        Some(error)
    });
    let text = found[0].as_ref().unwrap();
    assert!(text.contains("rank 1 failed") && text.contains("within 50 ms"), "{text}");
}

#[test]
fn ranks_that_do_different_things_are_told_what() {
    let found = on_ranks(plans(2, SOON), |mut ring| {
        let len = 10 + ring.rank();
        format!("{:#}", ring.all_reduce_sum(&mut vec![0.0; len]).unwrap_err())
    });
    assert!(found[0].contains("on 11 values, this rank in call 1 of kind 1 on 10"), "{found:?}");
}

#[test]
fn another_generation_does_not_join() {
    let mut plans = plans(2, SOON);
    for (plan, _) in &mut plans {
        plan.join_deadline = Duration::from_millis(100);
    }
    plans[1].0.generation = Generation(5);
    let found: Vec<String> = thread::scope(|scope| {
        let join = |(plan, listener): &(RingPlan, TcpListener)| {
            Ring::join(plan, listener).map(|_| ()).unwrap_err()
        };
        let ranks: Vec<_> = plans.iter().map(|at| scope.spawn(move || join(at))).collect();
        ranks.into_iter().map(|rank| format!("{:#}", rank.join().unwrap())).collect()
    });
    assert!(found[0].contains("rank 1 at") && found[0].contains("generation: 5"), "{}", found[0]);
}

#[test]
fn a_stranger_at_the_door_is_no_rank() {
    let plans = plans(2, SOON);
    let mut stranger = TcpStream::connect(plans[0].0.addresses[0]).unwrap();
    std::io::Write::write_all(&mut stranger, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let sums = on_ranks(plans, |mut ring| {
        let mut values = [1.5];
        ring.all_reduce_sum(&mut values).unwrap();
        values[0]
    });
    assert_eq!(sums, [3.0, 3.0]);
}

#[test]
fn a_wait_that_is_called_off_ends_before_its_deadline_and_forming_anew_may_help() {
    let mut plans = plans(2, SOON);
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let order = std::sync::atomic::Ordering::SeqCst;
    let asked = std::sync::Arc::clone(&stop);
    plans[0].0.interrupt = Interrupt::new(move || asked.load(order));
    let (done, wait) = std::sync::mpsc::channel::<()>();
    let (done, wait) = (std::sync::Mutex::new(Some(done)), std::sync::Mutex::new(wait));
    let found = on_ranks(plans, |mut ring| {
        if ring.rank() == 1 {
            stop.store(true, order);
            // Until the other has given up.
            let _ = wait.lock().unwrap().recv_timeout(SOON);
            return None;
        }
        let error = ring.barrier().unwrap_err();
        drop(done.lock().unwrap().take());
        Some(error)
    });
    let error = found[0].as_ref().unwrap();
    assert!(format!("{error:#}").contains("is waited for no longer"), "{error:#}");
    assert_eq!(error.downcast_ref(), Some(&Lost { generation: Generation(4) }));
}

#[test]
fn one_ranks_values_reach_all() {
    let found = on_ranks(plans(3, SOON), |mut ring| {
        let mut values = own(ring.rank(), 50);
        if ring.rank() == 2 {
            values[0] = f32::NAN;
        }
        ring.broadcast(1, &mut values).unwrap();
        values
    });
    assert!(found.iter().all(|values| *values == own(1, 50)));
}

/// The guard of a process with this token and everything else.
fn guard(authority: &TestAuthority, own: &Files, token: &str) -> Guard {
    let mut settings = settings::Settings::default();
    settings.security = settings::Security {
        token_file: authority.token(token, &token.repeat(40)),
        certificate: own.certificate.clone(),
        key: own.key.clone(),
        authority: authority.pem(),
        ..settings.security
    };
    Guard::open(&settings).unwrap()
}

#[test]
fn row_20_an_encrypted_ring_sums_and_lets_nobody_in_without_the_token() {
    let dir = tempfile::tempdir().unwrap();
    let authority = TestAuthority::new(dir.path());
    let own = authority.good("own");
    let protected = |guard: Guard, encrypted| {
        let mut plans = plans(3, SOON);
        for (plan, _) in &mut plans {
            plan.join_deadline = Duration::from_secs(20);
            plan.protection = Protection { guard: guard.clone(), encrypted };
        }
        plans
    };
    let sums = on_ranks(protected(guard(&authority, &own, "a"), true), |mut ring| {
        let mut values: Vec<f32> = (0..100_000).map(|i| (i * (ring.rank() + 1)) as f32).collect();
        ring.all_reduce_sum(&mut values).unwrap();
        ring.barrier().unwrap();
        (values[1], values[99_999])
    });
    assert_eq!(sums, [(6.0, 599_994.0); 3]);

    // One rank with another token, without encryption, with an authority of its own.
    let elsewhere = TestAuthority::new(&dir.path().join("elsewhere"));
    let foreign = elsewhere.good("foreign");
    let strangers = [
        ("token", guard(&authority, &own, "b"), true),
        ("plaintext", guard(&authority, &own, "a"), false),
        ("authority", guard(&elsewhere, &foreign, "a"), true),
    ];
    for (what, guard_of_it, encrypted) in strangers {
        let mut plans = protected(guard(&authority, &own, "a"), true);
        plans[0].0.protection = Protection { guard: guard_of_it, encrypted };
        for (plan, _) in &mut plans {
            plan.join_deadline = Duration::from_millis(600);
        }
        let joined: Vec<bool> = thread::scope(|scope| {
            let join =
                |(plan, listener): &(RingPlan, TcpListener)| Ring::join(plan, listener).is_ok();
            let ranks: Vec<_> = plans.iter().map(|at| scope.spawn(move || join(at))).collect();
            ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
        });
        assert!(!joined[0] && !joined[1] && !joined[2], "{what}: {joined:?}");
    }
}
