/* sysmon.c: the thread that needs no P. After Go's sysmon and retake.
 *
 *   retake   an M in a call that blocks (declared, or seen by the host as detached) loses
 *            its P if work waits for it, or after 10 ms anyway
 *   preempt  a g that ran for 10 ms (S.slice_ns) while others wait for its M or P is asked to
 *            yield
 *   poll     fds and timers that nobody looked at for a while
 *
 * It looks every 20 us while it retakes P's, and doubles the pause up to 10 ms after 50 looks
 * in vain, but is there when the slice of a g ends that others wait for; with every P idle it
 * sleeps until one is taken. Preempting doesn't shorten the pause: with a CPU for each P, every
 * look takes one away from a P (looking closely for a millisecond after each preemption cost
 * CPU-bound g's on 2 CPUs a tenth of their speed-up). */
#include "idle.h"
#include "netpoll.h"

static const int64_t PAUSE_MIN = 20 * MICROSECOND, PAUSE_MAX = 10 * MILLISECOND;
static const int64_t BLOCKED_MAX = 10 * MILLISECOND;
/* An undeclared call shows only as a detached thread, and a thread that makes many short
 * calls may be seen detached twice in a row. A P taken for nothing costs more here than in
 * Go: what the other M starts stays there for good (an echo pair split over two M's that
 * share one P: 81 instead of 14 us a round trip). */
static const int64_t UNDECLARED_MIN = 1 * MILLISECOND;
static const int64_t POLL_AFTER = 10 * MILLISECOND;
enum { LEFT_LOOKS = 50 }; /* half a second: before that, whoever wakes it may have lost its CPU */

void sysmon_wake(void) { note_wake(&S.sysmon_note); }

static bool work_waits_for(p *pp, m *mp) {
    if (load_relaxed(&pp->retire) || globq_len(&S.latq)) return true;
    if (load_relaxed(&pp->reserved)) return !mp->latency;
    return !runq_empty(&pp->runq) || globq_len(&S.globq);
}

/* The call that p's M is in, if it may block: HOLD_SYSCALL or HOLD_HOST; else HOLD_CORE. */
static uint32_t blocking_call(m *mp) {
    uint32_t hold = load_acquire(&mp->hold);
    if (hold == HOLD_SYSCALL) return hold;
    if (hold == HOLD_HOST && S.ops.state(mp) == HOST_DETACHED) return hold;
    return HOLD_CORE;
}

static void look_again_at(int64_t when, int64_t *until) {
    if (when < *until) *until = when;
}

/* *until: when sysmon has to look again, the usual pause or not. */
static bool retake(p *pp, m *mp, int64_t now, int64_t *until) {
    uint32_t from = blocking_call(mp);
    uint64_t entries = load_relaxed(&mp->entries);
    if (from != HOLD_CORE && work_waits_for(pp, mp)) look_again_at(now + UNDECLARED_MIN / 4, until);
    if (from == HOLD_CORE || pp->seen_host != entries) {
        pp->seen_host = from == HOLD_CORE ? UINT64_MAX : entries;
        pp->host_since = now;
        return false;
    }
    if (from == HOLD_HOST && now - pp->host_since < UNDECLARED_MIN) return false;
    if (!work_waits_for(pp, mp) && now - pp->host_since < BLOCKED_MAX) return false;
    if (!work_waits_for(pp, mp) && boundq_len(&mp->bound) == 0 && load_relaxed(&S.nidlep) > 0 &&
        !timers_due(&pp->timers, now))
        return false; /* nobody would gain */
    /* pp->m is old news until a new owner has woken up: mp may hold another P by now. What
     * was taken is handed off, whichever it is. */
    if (!(pp = sched_retake(mp, pp, from))) return false;
    count_add(from == HOLD_SYSCALL ? &pp->stat.retakes_declared : &pp->stat.retakes_undeclared, 1);
    count_add(&pp->stat.handoffs, 1);
    pp->seen_host = UINT64_MAX;
    sched_handoffp(pp, true);
    return true;
}

static void preempt(p *pp, m *mp, int64_t now, int64_t slice, int64_t *until) {
    g *gp = load_acquire(&mp->cur);
    bool cancelled = gp && load_relaxed(&gp->cancel);
    if (!cancelled && !work_waits_for(pp, mp) && boundq_len(&mp->bound) == 0) return;
    int64_t since = load_relaxed(&pp->slice_since);
    if (since < pp->preempt_asked_at) since = pp->preempt_asked_at; /* ask again after another slice */
    if (now - since < slice) {
        look_again_at(since + slice, until);
        return;
    }
    if (load_acquire(&mp->hold) != HOLD_HOST || !S.ops.preempt(mp)) return;
    count_add(&pp->stat.preempt_requests, 1);
    if (tracing()) trace_emit_about(pp, mp, TRACE_PREEMPT, 0);
    pp->preempt_asked_at = now;
    look_again_at(now + slice, until);
}

/* An M that came back from a blocking call without its P must not run on for free. */
static void stop_free_riders(int64_t now) {
    if (load_relaxed(&S.nnop) == 0) return;
    for (uint32_t i = 0; i < load_relaxed(&S.nm) && i < MAX_M; i++) {
        m *mp = load_acquire(&S.allm[i]);
        if (!mp || load_acquire(&mp->hold) != HOLD_TAKEN) continue;
        if (S.ops.state(mp) == HOST_RUNNING &&
            now - load_relaxed(&mp->nop_since) > load_relaxed(&S.slice_ns)) {
            store_relaxed(&mp->nop_since, now);
            S.ops.preempt(mp);
        }
    }
}

/* One look; returns whether a P was retaken. */
static bool look(int64_t now, int64_t *until) {
    bool retook = false;
    int64_t slice = atomic_exchange(&S.preempt_now, false) ? 0 : load_relaxed(&S.slice_ns);
    /* First what may make others wait for a P. */
    bool woke = sched_next_timer() <= now - MILLISECOND;
    if (woke) sched_run_timers(now);
    if (netpoll_waiters() && !load_relaxed(&S.poller)) {
        int64_t unseen = now - load_relaxed(&S.last_poll);
        if (unseen > POLL_AFTER) {
            store_relaxed(&S.last_poll, now);
            netpoll(0);
            woke = true;
        } else if (unseen > POLLER_AFTER)
            sched_kick_poller();
        else if (load_relaxed(&S.nidlep)) /* the one that polled found work: another M should, before long */
            look_again_at(now + UNDECLARED_MIN / 4, until);
    }
    if (woke) check_deadlock();
    for (uint32_t i = 0; i < S.maxp; i++) {
        p *pp = load_acquire(&S.allp[i]);
        m *mp = load_acquire(&pp->m);
        if (load_acquire(&pp->status) != P_RUNNING || !mp) continue;
        if (retake(pp, mp, now, until))
            retook = true;
        else
            preempt(pp, mp, now, slice, until);
    }
    stop_free_riders(now);
    return retook;
}

void *sysmon_main(void *arg) {
    int64_t pause = PAUSE_MIN;
    uint32_t vain = 0, left = 0;
    trace_thread = TRACE_SYSMON;
    while (load_acquire(&S.running)) {
        clock_sync();
        int64_t now = nanotime();
        bool all_idle = sched_all_idle();
        /* Whoever begins to wait is seen within a slice. */
        int64_t slice = load_relaxed(&S.slice_ns), longest = slice < PAUSE_MAX ? slice : PAUSE_MAX;
        if (pause > longest) pause = longest;
        /* Once everybody sleeps, nobody would see any more what is left to run. Nothing is, by the
         * protocol in scheduler.h; but it was broken in three places, and the last (sleep_until_given,
         * idle.c) showed once in dozens of runs of the whole suite on a loaded machine. A program that
         * hangs is the worst way to learn of a fourth: what was left for many looks is picked up, if it
         * was there before sysmon fell asleep. The tests fail when it happens, and say what was seen. */
        if (all_idle && pause == longest && sched_left_behind(left > LEFT_LOOKS)) {
            left++;
            note_sleep(&S.sysmon_note, now + PAUSE_MAX);
            continue;
        }
        left = 0;
        /* Not before the longest pause: who takes a P has to wake us, which costs it a
         * system call. */
        if (all_idle && pause == longest) {
            store_seq(&S.sysmon_asleep, true);
            /* take_p looks at sysmon_asleep after its P became RUNNING. */
            if (sched_all_idle()) note_sleep(&S.sysmon_note, 0);
            store_seq(&S.sysmon_asleep, false);
            vain = 0;
            pause = PAUSE_MIN;
            continue;
        }
        int64_t until = now + longest;
        if (look(now, &until)) {
            vain = 0;
            pause = PAUSE_MIN;
        } else if (++vain > 50 && pause < longest)
            pause = pause * 2 < longest ? pause * 2 : longest;
        look_again_at(now + pause, &until);
        /* Timers that fall due while every P is busy are sysmon's to run. INT64_MAX if there is
         * none: nothing may be added to it. */
        int64_t next = sched_next_timer();
        if (next < until - MILLISECOND) until = next + MILLISECOND;
        if (until < now + PAUSE_MIN) until = now + PAUSE_MIN;
        note_sleep(&S.sysmon_note, until);
    }
    return arg;
}
