/* Everything at once: the invariants are the host's (host.h), and that every g ends.
 *
 * Tasks yield, sleep, talk over channels and sockets, select, lock, spawn, block declared
 * and not, hog, lock their M and are cancelled, while GOMAXPROCS goes up and down. */
#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>

#include "../api.h"
#include "host.h"

enum { TASKS = 60, CHANS = 4, PAIRS = 4, LOCKS = 2 };

static _Atomic bool stop;
static _Atomic uint64_t spawned, ran, sent, got, cancels, lock_rounds, io_rounds, solos;
static chan chans[CHANS];
static glock locks[LOCKS];
static uint64_t guarded[LOCKS]; /* by the lock, plainly: a sanitizer sees two owners */
static task *mixed[TASKS];
static bool with_blocking, with_locked, with_reserve;

/* Of either class, where there are two. */
static task *go_any(step_fn step, uint32_t r, void *arg) {
    return (with_reserve && r & 1 ? host_go_latency : host_go)(step, 0, arg);
}

static enum step step_child(task *t, m *mp) {
    (void)mp;
    atomic_fetch_add(&ran, 1);
    return t->n-- > 0 ? STEP_YIELD : STEP_END;
}

enum { NEXT = 0, SENT, RECEIVED, SELECTED, LOCKING, LOCKED, SLEPT, RELEASE_M };

/* Its function is known to block: it starts on an M of its own. */
static enum step step_solo(task *t, m *mp) {
    atomic_fetch_add(&ran, 1);
    if (t->pc++ == 0 && mp->solo) atomic_fetch_add(&solos, 1);
    if (t->pc > 3) return STEP_END;
    atomic_fetch_sub(&ran, 1);
    if (rand_next(&t->rand) & 1) task_block_undeclared(mp, rand_next(&t->rand) % MILLISECOND);
    return STEP_YIELD;
}

/* What came of a wait on a channel is counted, so that at the end sent == got. */
static enum step step_mixed(task *t, m *mp) {
    parker *k = &t->gp->parker;
    waiter *w = &t->seats[0];
    uint32_t r;
    switch (t->pc) {
    case NEXT: break;
    case SENT:
        if (task_wake(t) != WAKE_OK)
            chan_unwait(t->arg, w, true);
        else if (w->ok)
            atomic_fetch_add(&sent, 1);
        break;
    case RECEIVED:
        if (task_wake(t) != WAKE_OK)
            chan_unwait(t->arg, w, false);
        else if (w->ok)
            atomic_fetch_add(&got, 1);
        break;
    case SELECTED: {
        bool ok = task_wake(t) == WAKE_OK;
        waiter *hit = ok ? k->hit : NULL;
        select_done(t->cases, 4);
        if (ok && hit->ok) atomic_fetch_add(t->cases[hit->index].sending ? &sent : &got, 1);
        break;
    }
    case LOCKING:
        if (task_wake(t) != WAKE_OK)
            glock_unwait(t->arg, w);
        else if (w->ok || glock_wait(t->arg, k, w, nanotime(), true))
            goto locked;
        else
            return STEP_PARK;
        break;
    case LOCKED: goto unlock;
    case RELEASE_M: task_lock_m(mp, -1); break;
    case SLEPT: break;
    }
    t->pc = NEXT;
    if (load_relaxed(&stop)) return STEP_END;
    if (t->n-- <= 0) t->n = 1000;
    r = rand_next(&t->rand);
    bool timed = r & 0x10000;
    int64_t soon = rand_next(&t->rand) % MILLISECOND;
    switch (r % 16) {
    case 0:
    case 1: return STEP_YIELD;
    case 2:
        t->pc = SLEPT;
        task_sleep(t, soon);
        return STEP_PARK;
    case 3:
    case 4:
        t->arg = &chans[(r >> 8) % CHANS];
        t->pc = SENT;
        switch (chan_send(t->arg, t, k, w)) {
        case CHAN_PARKED:
            if (timed) t->deadline = nanotime() + soon;
            return STEP_PARK;
        case CHAN_DONE: atomic_fetch_add(&sent, 1); /* fall through */
        default: t->pc = NEXT; return STEP_YIELD;
        }
    case 5:
    case 6:
        t->arg = &chans[(r >> 8) % CHANS];
        t->pc = RECEIVED;
        switch (chan_recv(t->arg, &t->val, k, w)) {
        case CHAN_PARKED:
            if (timed) t->deadline = nanotime() + soon;
            return STEP_PARK;
        case CHAN_DONE: atomic_fetch_add(&got, 1); /* fall through */
        default: t->pc = NEXT; return STEP_YIELD;
        }
    case 7: {
        for (int i = 0; i < 4; i++) {
            r = rand_next(&t->rand);
            t->cases[i] = (chan_case){
                .c = r & 8 ? NULL : &chans[(r >> 8) % CHANS], .sending = r & 16, .val = t, .w = &t->seats[i]};
        }
        int which = select_try(t->cases, 4, k, t->order, &t->rand, &t->closed);
        if (which < 0) {
            t->pc = SELECTED;
            t->deadline = nanotime() + soon; /* all cases may be NULL */
            return STEP_PARK;
        }
        if (!t->closed) atomic_fetch_add(t->cases[which].sending ? &sent : &got, 1);
        return STEP_YIELD;
    }
    case 8:
    case 9:
        t->arg = &locks[(r >> 8) % LOCKS];
        if (!glock_try(t->arg) && !glock_wait(t->arg, k, w, nanotime(), false)) {
            t->pc = LOCKING;
            if (timed) t->deadline = nanotime() + soon;
            return STEP_PARK;
        }
        goto locked;
    case 10:
        for (int i = 0; i < 8; i++) {
            atomic_fetch_add(&spawned, 1);
            go_any(step_child, r >> (8 + i), NULL);
        }
        return STEP_YIELD;
    case 11:
        if (with_blocking && r & 0x300)
            task_block_declared(mp, (int64_t)(r >> 12) % (r & 0x400 ? MILLISECOND : 20 * MICROSECOND));
        return STEP_YIELD;
    case 12:
        if (with_blocking && (r & 0x700) == 0)
            task_block_undeclared(mp, (int64_t)(r >> 12) % (2 * MILLISECOND));
        if (with_blocking && (r & 0x700) == 0x100) {
            atomic_fetch_add(&spawned, 1);
            (with_reserve && r & 0x1000 ? host_go_latency_solo : host_go_solo)(step_solo, 0, NULL);
        }
        return STEP_YIELD;
    case 13: /* a hog, now and then */
        if ((r & 0xff00) == 0)
            for (int64_t end = nanotime() + 30 * MILLISECOND; nanotime() < end && !task_preempted(mp);)
                cpu_relax();
        return STEP_YIELD;
    case 14:
        if (with_locked && (r & 0xf00) == 0) {
            task_lock_m(mp, 1);
            t->pc = RELEASE_M;
            if (!timed) return STEP_YIELD;
            task_sleep(t, soon);
            return STEP_PARK;
        }
        return STEP_YIELD;
    default: return STEP_YIELD;
    }
locked:
    guarded[(glock *)t->arg - locks]++;
    t->pc = LOCKED;
    if (rand_next(&t->rand) & 1) return STEP_YIELD;
unlock:
    guarded[(glock *)t->arg - locks]++;
    atomic_fetch_add(&lock_rounds, 1);
    CHECK(glock_release(t->arg));
    t->pc = NEXT;
    return STEP_YIELD;
}

/* ---- sockets: one end sends what the other echoes, nothing is lost. */

static enum step step_io(task *t, m *mp) {
    (void)mp;
    conn *c = t->arg;
    bool echo = t->n;
    if (t->pc == 1) CHECK_EQ(task_wake(t), WAKE_OK);
    t->pc = 0;
    for (;;) {
        char byte;
        if (!echo && t->order[1] == 0) {
            if (load_relaxed(&stop)) {
                shutdown(c->fd, SHUT_WR);
                return STEP_END;
            }
            CHECK(write(c->fd, "x", 1) == 1);
            t->order[1] = 1;
        }
        uint64_t state = netpoll_state(c->d, POLL_READ);
        ssize_t n = -1;
        if (netpoll_ready(state)) {
            n = read(c->fd, &byte, 1);
            if (n == 0) return STEP_END;
            if (n < 0) {
                CHECK(errno == EAGAIN);
                netpoll_drained(c->d, POLL_READ, state);
            }
        }
        if (n == 1) {
            atomic_fetch_add(&io_rounds, 1);
            t->order[1] = 0;
            if (echo) CHECK(write(c->fd, "x", 1) == 1);
            if (rand_next(&t->rand) % 8 == 0) return STEP_YIELD;
            continue;
        }
        switch (netpoll_wait(c->d, POLL_READ, state, &t->gp->parker, &t->gp->waiter)) {
        case POLL_PARK: t->pc = 1; return STEP_PARK;
        case POLL_AGAIN: break;
        case POLL_CLOSED: return STEP_END;
        }
    }
}

/* ---- the outside: GOMAXPROCS, cancels, plain threads in channels. */

static uint32_t procs_now;
static int64_t duration;

static void outside(int index) {
    uint64_t rand = seed(100 + index);
    static _Thread_local parker k;
    static _Thread_local waiter w;
    int64_t end = nanotime() + duration;
    void *v;
    while (nanotime() < end) {
        uint32_t r = rand_next(&rand);
        switch (index) {
        case 0:
            pause_ns(r % (3 * MILLISECOND));
            if (r & 0x100000) sched_set_procs(1 + r % (procs_now * 2));
            if (with_reserve && r & 0x200000) sched_set_reserve(r >> 8 & 3);
            break;
        case 3: {
            gmpy_stat stat;
            gmpy_pstat pstat;
            gmpy_mstat ms[16];
            pause_ns(r % MILLISECOND);
            gmpy_stat_read(&stat, r & 0x100000);
            gmpy_p_stat(r % 4, &pstat);
            gmpy_m_stats(ms, 16);
            sched_deadlocked();
            break;
        }
        case 1:
            pause_ns(r % (200 * MICROSECOND));
            if (task_cancel(mixed[r % TASKS])) atomic_fetch_add(&cancels, 1);
            break;
        case 2: {
            chan *c = &chans[r % CHANS];
            bool sending = r & 0x1000;
            enum chan_result did = sending ? chan_send(c, &k, &k, &w) : chan_recv(c, &v, &k, &w);
            if (did == CHAN_PARKED) {
                uint64_t seq = load_relaxed(&k.word) >> 2;
                if (!note_sleep(&k.note, nanotime() + r % MILLISECOND)) {
                    if (wait_take_back(&k, seq, WAKE_TIMEOUT)) {
                        chan_unwait(c, &w, sending);
                        break;
                    }
                    note_sleep(&k.note, 0); /* claimed just now: the wake-up is on its way */
                }
                if (w.ok) did = CHAN_DONE;
            }
            if (did == CHAN_DONE) atomic_fetch_add(sending ? &sent : &got, 1);
            break;
        }
        }
    }
}

static void mix(uint32_t procs, uint32_t policy, int64_t ns) {
    conn conns[PAIRS][2];
    store_seq(&stop, false);
    store_seq(&spawned, 0), store_seq(&ran, 0), store_seq(&sent, 0), store_seq(&got, 0);
    for (int i = 0; i < CHANS; i++) CHECK(chan_init(&chans[i], (uint32_t)i));
    procs_now = procs;
    duration = scaled(ns);
    host_start(procs, policy);
    if (with_reserve) sched_set_reserve(1);
    for (int i = 0; i < PAIRS; i++) {
        host_connect(conns[i]);
        for (int k = 0; k < 2; k++) host_go(step_io, k, &conns[i][k]);
    }
    for (int i = 0; i < TASKS; i++) mixed[i] = go_any(step_mixed, (uint32_t)i, NULL);
    threads(4, outside);
    store_seq(&stop, true);
    /* A channel that is closed lets everybody go. */
    for (int i = 0; i < CHANS; i++) chan_close(&chans[i]);
    host_stop();
    uint64_t left = 0;
    for (int i = 0; i < CHANS; i++) {
        left += chans[i].count;
        chan_free(&chans[i]);
    }
    for (int i = 0; i < LOCKS; i++) CHECK_EQ(locks[i].word, 0);
    for (int i = 0; i < PAIRS; i++) host_disconnect(conns[i]);
    CHECK_EQ(spawned, ran);
    CHECK_EQ(sent, got + left);
    CHECK_EQ(netpoll_waiters(), 0);
}

static void all_policies(uint32_t procs) {
    for (uint32_t policy = 0; policy < POLICIES; policy++) mix(procs, policy, 400 * MILLISECOND);
    fprintf(stderr,
            "  %u P's: steps=%llu sent=%llu locks=%llu io=%llu cancels=%llu preempts=%llu idles=%llu "
            "solos=%llu\n",
            procs, (unsigned long long)host_steps, (unsigned long long)sent, (unsigned long long)lock_rounds,
            (unsigned long long)io_rounds, (unsigned long long)cancels, (unsigned long long)host_preempts,
            (unsigned long long)host_idles, (unsigned long long)solos);
}

static void mixed_on_one_p(void) { all_policies(1); }
static void mixed_on_two_ps(void) { all_policies(2); }
static void mixed_on_four_ps(void) { all_policies(4); }

int main(void) {
    with_blocking = false;
    RUN(mixed_on_two_ps);
    with_blocking = true;
    RUN(mixed_on_one_p);
    RUN(mixed_on_two_ps);
    with_locked = true;
    RUN(mixed_on_one_p);
    RUN(mixed_on_two_ps);
    RUN(mixed_on_four_ps);
    host_spin = false;
    RUN(mixed_on_two_ps);
    RUN(mixed_on_four_ps);
    with_reserve = true;
    RUN(mixed_on_two_ps);
    host_spin = true;
    RUN(mixed_on_two_ps);
    RUN(mixed_on_four_ps);
    return 0;
}
