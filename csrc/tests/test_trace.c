/* The trace: what ends up in the file is what happened, in order, and nothing is lost silently. */
#include "../trace.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>

#include "host.h"

typedef struct file {
    trace_rec *rec; /* the events, ring after ring in the order of the chunks */
    uint16_t *ring;
    uint64_t n, lost, lost_told, counts[4][64];
    trace_sum sum;
} file;

static int start_trace(uint32_t limit) {
    int fd = fileno(tmpfile());
    CHECK(fd >= 0);
    CHECK_EQ(trace_start(fd, limit), 0);
    return fd;
}

static file read_file(int fd) {
    file f = {.n = 0};
    off_t size = lseek(fd, 0, SEEK_END);
    CHECK(size >= 0 && size % (off_t)sizeof(trace_rec) == 0);
    uint64_t all = (uint64_t)size / sizeof(trace_rec), left = 0;
    trace_rec *rec = malloc((size_t)size + 1);
    CHECK(rec && pread(fd, rec, (size_t)size, 0) == (ssize_t)size);
    f.rec = malloc((size_t)size + 1);
    f.ring = malloc((all + 1) * sizeof *f.ring);
    CHECK(f.rec && f.ring);
    uint16_t ring = 0;
    for (uint64_t i = 0; i < all; i++) {
        trace_rec *r = &rec[i];
        if (left == 0 && r->type == TRACE_COUNT) {
            CHECK(r->g < 64 && r->seq < 4);
            f.counts[r->seq][r->g] = r->arg;
            continue;
        }
        if (left == 0) {
            CHECK_EQ(r->type, TRACE_CHUNK);
            CHECK(r->arg > 0);
            left = r->arg;
            ring = r->p;
            continue;
        }
        left--;
        CHECK(r->type > TRACE_COUNT && r->type < TRACE_TYPE_COUNT);
        if (r->type == TRACE_LOST) f.lost_told += r->arg;
        f.rec[f.n] = *r;
        f.ring[f.n++] = ring;
    }
    CHECK_EQ(left, 0);
    free(rec);
    return f;
}

static file stop_trace(int fd) {
    trace_sum sum;
    CHECK_EQ(trace_stop(&sum), 0);
    CHECK_EQ(sum.error, 0);
    file f = read_file(fd);
    f.sum = sum;
    CHECK_EQ(f.n, sum.events);
    CHECK_EQ(f.lost_told, sum.lost);
    return f;
}

static void file_free(file *f) {
    free(f->rec);
    free(f->ring);
}

static uint64_t count(file *f, enum trace_type type) {
    uint64_t n = 0;
    for (uint64_t i = 0; i < f->n; i++) n += f->rec[i].type == type;
    return n;
}

/* Times rise within a ring (but for the corrections of the clock), and the rings are told apart. */
static void check_order(file *f) {
    static int64_t last[0x10000];
    memset(last, 0, sizeof last);
    for (uint64_t i = 0; i < f->n; i++) {
        CHECK(f->rec[i].when >= last[f->ring[i]] - 10 * MICROSECOND);
        last[f->ring[i]] = f->rec[i].when;
        if (f->ring[i] != TRACE_NONE) CHECK_EQ(f->rec[i].p, f->ring[i]);
    }
}

/* When the next runtime after `when` ended. Only times tell: the chunk with STOPPED, which is
 * the shared ring's, may be in the file before the last ones of the P's. */
static int64_t next_stop(file *f, int64_t when) {
    int64_t next = INT64_MAX;
    for (uint64_t i = 0; i < f->n; i++)
        if (f->rec[i].type == TRACE_STOPPED && f->rec[i].when > when && f->rec[i].when < next)
            next = f->rec[i].when;
    return next;
}

/* What each P's ring says fits together by itself: one M holds it, one g runs. */
static void check_p_rings(file *f) {
    static struct {
        bool held, running;
        uint16_t m;
        uint64_t g;
        int64_t stop;
    } at[MAX_P];
    memset(at, 0, sizeof at);
    for (uint64_t i = 0; i < f->n; i++) {
        trace_rec *r = &f->rec[i];
        if (f->ring[i] == TRACE_NONE) continue;
        CHECK(r->p < MAX_P);
        if (r->when > at[r->p].stop) {
            memset(&at[r->p], 0, sizeof at[r->p]);
            at[r->p].stop = next_stop(f, r->when);
        }
        switch (r->type) {
        case TRACE_P_START:
            CHECK(!at[r->p].held && !at[r->p].running);
            at[r->p].held = true;
            at[r->p].m = r->m;
            break;
        case TRACE_P_STOP:
            CHECK(at[r->p].held && !at[r->p].running && at[r->p].m == r->m);
            at[r->p].held = false;
            break;
        case TRACE_RESUME:
            if (!r->g) break;
            /* fall through */
        case TRACE_RUN:
            CHECK(at[r->p].held && !at[r->p].running && at[r->p].m == r->m);
            at[r->p].running = true;
            at[r->p].g = r->g;
            break;
        case TRACE_PARK:
        case TRACE_YIELD:
        case TRACE_END:
            CHECK(at[r->p].held && at[r->p].running && at[r->p].m == r->m && at[r->p].g == r->g);
            at[r->p].running = false;
            break;
        case TRACE_RETAKE:
            CHECK(at[r->p].held && at[r->p].m == r->m);
            at[r->p].held = at[r->p].running = false;
            break;
        default: CHECK(at[r->p].held); break;
        }
    }
}

#define X(name) COUNT_##name,
enum { P_COUNTERS(X) };
#undef X

/* `slack`: sysmon counts outside every core. */
static void check_count(file *f, enum trace_type type, int counter, uint64_t slack) {
    uint64_t n = count(f, type);
    CHECK(f->sum.exact);
    CHECK(n + slack >= f->counts[2][counter] - f->counts[1][counter]);
    CHECK(n <= f->counts[3][counter] - f->counts[0][counter] + slack);
}

static void check_counts(file *f) {
    check_count(f, TRACE_CREATE, COUNT_created, 0);
    check_count(f, TRACE_END, COUNT_ended, 0);
    check_count(f, TRACE_RUN, COUNT_schedtick, 0);
    check_count(f, TRACE_STEAL, COUNT_steals, 0);
    check_count(f, TRACE_TOKEN, COUNT_tokens, 0);
    check_count(f, TRACE_RETAKE, COUNT_handoffs, 1);
    check_count(f, TRACE_PREEMPT, COUNT_preempt_requests, 1);
}

static void check_file(file *f) {
    check_order(f);
    check_p_rings(f);
    check_counts(f);
}

/* ---------------------------------------------------------------- work to trace */

static enum step end_at_once(task *t, m *mp) {
    (void)t, (void)mp;
    return STEP_END;
}

static enum step yields(task *t, m *mp) {
    (void)mp;
    return t->n-- > 0 ? STEP_YIELD : STEP_END;
}

static enum step sleeps(task *t, m *mp) {
    (void)mp;
    if (t->n-- <= 0) return STEP_END;
    task_sleep(t, 50 * MICROSECOND);
    return STEP_PARK;
}

/* Begets two with one less, yields now and then, blocks now and then. */
static enum step tree(task *t, m *mp) {
    if (t->n > 0 && t->pc < 2) {
        t->pc++;
        host_go(tree, t->n - 1, NULL);
        if (rand_next(&t->rand) % 4 == 0) return STEP_YIELD;
        if (rand_next(&t->rand) % 8 == 0) {
            task_sleep(t, 20 * MICROSECOND);
            return STEP_PARK;
        }
        return tree(t, mp);
    }
    if (rand_next(&t->rand) % 64 == 0) task_block_declared(mp, 100 * MICROSECOND);
    if (rand_next(&t->rand) % 256 == 0) task_block_undeclared(mp, 3 * MILLISECOND);
    return STEP_END;
}

static uint64_t find(file *f, enum trace_type type, uint64_t gid) {
    for (uint64_t i = 0; i < f->n; i++)
        if (f->rec[i].type == type && f->rec[i].g == gid) return i;
    CHECK(!"no such event");
    return 0;
}

/* ---------------------------------------------------------------- tests */

static void a_g_is_created_runs_yields_and_ends(void) {
    int fd = start_trace(0);
    host_start(1, POLICY_GO);
    task *t = host_go(yields, 2, NULL);
    uint64_t id = t->gp->id;
    host_stop();
    file f = stop_trace(fd);
    check_file(&f);
    CHECK_EQ(count(&f, TRACE_CREATE), 1);
    CHECK_EQ(count(&f, TRACE_RUN), 3);
    CHECK_EQ(count(&f, TRACE_YIELD), 2);
    CHECK_EQ(count(&f, TRACE_END), 1);
    CHECK_EQ(count(&f, TRACE_STOPPED), 1);
    CHECK_EQ(f.rec[find(&f, TRACE_PROCS, 0)].arg, 1);
    trace_rec *made = &f.rec[find(&f, TRACE_CREATE, id)], *run = &f.rec[find(&f, TRACE_RUN, id)];
    CHECK(made->arg & TRACE_THREAD); /* by this plain thread */
    CHECK_EQ(made->seq, run->seq);
    CHECK_EQ(f.ring[find(&f, TRACE_CREATE, id)], TRACE_NONE);
    CHECK_EQ(f.ring[find(&f, TRACE_RUN, id)], 0);
    file_free(&f);
}

static void every_ready_has_its_run(void) {
    int fd = start_trace(0);
    host_start(2, POLICY_GO);
    for (int i = 0; i < 20; i++) host_go(sleeps, 50, NULL);
    host_stop();
    file f = stop_trace(fd);
    check_file(&f);
    CHECK_EQ(count(&f, TRACE_READY), 20 * 50);
    CHECK_EQ(count(&f, TRACE_PARK), 20 * 50);
    CHECK_EQ(count(&f, TRACE_TIMER), 20 * 50);
    CHECK_EQ(count(&f, TRACE_RUN), 20 * 51);
    /* Numbers pair them: the same (g, seq) once in each. */
    for (uint64_t i = 0; i < f.n; i++) {
        if (f.rec[i].type != TRACE_READY) continue;
        int runs = 0;
        for (uint64_t k = 0; k < f.n; k++)
            runs += f.rec[k].type == TRACE_RUN && f.rec[k].g == f.rec[i].g && f.rec[k].seq == f.rec[i].seq;
        CHECK_EQ(runs, 1);
    }
    file_free(&f);
}

static enum step blocks_declared(task *t, m *mp) {
    (void)t;
    task_block_declared(mp, 30 * MILLISECOND);
    return STEP_END;
}

static void a_declared_call_shows_where_it_began_and_ended(void) {
    int fd = start_trace(0);
    host_start(1, POLICY_GO);
    task *t = host_go(blocks_declared, 0, NULL);
    uint64_t id = t->gp->id;
    for (int i = 0; i < 10; i++) host_go(end_at_once, 0, NULL);
    host_stop();
    file f = stop_trace(fd);
    check_file(&f);
    trace_rec *call = &f.rec[find(&f, TRACE_SYSCALL, id)];
    /* With its P, or, if sysmon was quick enough, without. */
    if (count(&f, TRACE_RETAKE)) {
        CHECK_EQ(f.rec[find(&f, TRACE_RETAKE, id)].arg, 1);
        CHECK(f.rec[find(&f, TRACE_RETURN, id)].when - call->when >= 29 * MILLISECOND);
        CHECK(find(&f, TRACE_RESUME, id));
    } else
        CHECK(f.rec[find(&f, TRACE_SYSCALL_EXIT, id)].when - call->when >= 29 * MILLISECOND);
    file_free(&f);
}

static void lost_events_are_counted_where_they_are_missing(void) {
    int fd = start_trace(16);
    host_start(1, POLICY_GO);
    host_go(yields, 100000, NULL);
    host_stop();
    file f = stop_trace(fd);
    check_order(&f);
    CHECK(f.sum.lost > 0 && count(&f, TRACE_LOST) > 0);
    /* stop_trace has compared what the file tells with the sum; and nothing else is missing. */
    uint64_t events = count(&f, TRACE_RUN) + count(&f, TRACE_YIELD) + f.sum.lost;
    CHECK(events >= 200001);
    file_free(&f);
}

static void what_cannot_be_written_is_lost_and_said(void) {
    int fd = open("/dev/full", O_WRONLY);
    if (fd < 0) return;
    CHECK_EQ(trace_start(fd, 0), 0);
    host_start(1, POLICY_GO);
    host_go(yields, 1000, NULL);
    host_stop();
    trace_sum sum;
    CHECK_EQ(trace_stop(&sum), 0);
    CHECK_EQ(sum.error, ENOSPC);
    CHECK_EQ(sum.events, 0);
    CHECK(sum.lost > 2000);
    close(fd);
}

static void one_trace_at_a_time(void) {
    trace_sum sum;
    CHECK_EQ(trace_stop(&sum), -EINVAL);
    int fd = start_trace(0);
    CHECK_EQ(trace_start(fd, 0), -EBUSY);
    file f = stop_trace(fd);
    CHECK_EQ(f.n, 0);
    file_free(&f);
    CHECK_EQ(trace_stop(&sum), -EINVAL);
}

static void nothing_is_traced_while_it_is_off(void) {
    host_start(2, POLICY_GO);
    for (int i = 0; i < 100; i++) host_go(yields, 10, NULL);
    host_stop();
    int fd = start_trace(0);
    file f = stop_trace(fd);
    CHECK_EQ(f.n, 0);
    file_free(&f);
}

static _Atomic bool enough;

static enum step busy(task *t, m *mp) {
    if (load_relaxed(&enough)) return STEP_END;
    switch (rand_next(&t->rand) % 8) {
    case 0: host_go(end_at_once, 0, NULL); return STEP_YIELD;
    case 1: task_sleep(t, 10 * MICROSECOND); return STEP_PARK;
    case 2: task_block_declared(mp, 10 * MICROSECOND); return STEP_YIELD;
    default: return STEP_YIELD;
    }
}

/* Start and stop at any moment: what is counted within is traced within. */
static void counts_agree_although_it_starts_and_stops_amid_work(void) {
    host_start(4, POLICY_GO);
    store_relaxed(&enough, false);
    for (int i = 0; i < 16; i++) host_go(busy, 0, NULL);
    for (int i = 0; i < (int)scaled(60); i++) {
        int fd = start_trace(0);
        for (int k = 0; k < 20; k++) host_go(end_at_once, 0, NULL); /* from outside, too */
        pause_ns(MILLISECOND);
        file f = stop_trace(fd);
        check_order(&f);
        CHECK_EQ(f.sum.lost, 0);
        check_counts(&f);
        file_free(&f);
        close(fd);
    }
    store_relaxed(&enough, true);
    host_stop();
}

/* Runtimes that come and go, with their P's and M's, while it runs on. */
static void a_trace_outlives_runtimes(void) {
    int fd = start_trace(0);
    int rounds = (int)scaled(20);
    for (int i = 0; i < rounds; i++) {
        host_start(1 + (uint32_t)i % 4, POLICY_GO);
        host_go(tree, 6, NULL);
        host_stop();
    }
    file f = stop_trace(fd);
    CHECK_EQ(count(&f, TRACE_STOPPED), rounds);
    CHECK_EQ(count(&f, TRACE_CREATE), count(&f, TRACE_END));
    CHECK_EQ(count(&f, TRACE_CREATE), (uint64_t)rounds * 127);
    check_order(&f);
    check_counts(&f);
    file_free(&f);
}

/* P's change hands in every way there is, M's come back without theirs, and each P's ring
 * still tells one story. */
static void stress(void) {
    int fd = start_trace(0);
    host_start(4, POLICY_GO);
    for (int64_t i = 0; i < scaled(20); i++) host_go(tree, 9, NULL);
    for (int i = 0; i < 30; i++) {
        pause_ns(2 * MILLISECOND);
        sched_set_procs(1 + (uint32_t)i % 4);
    }
    host_stop();
    file f = stop_trace(fd);
    CHECK_EQ(f.sum.lost, 0);
    check_file(&f);
    CHECK_EQ(count(&f, TRACE_CREATE), count(&f, TRACE_END));
    file_free(&f);
}

static void gs_of_plain_threads(int i) {
    (void)i;
    for (int64_t k = 0; k < scaled(2000); k++) host_go(k % 5 ? end_at_once : sleeps, 2, NULL);
}

static void many_plain_threads_share_a_ring(void) {
    int fd = start_trace(0);
    host_start(2, POLICY_GO);
    threads(4, gs_of_plain_threads);
    host_stop();
    file f = stop_trace(fd);
    CHECK_EQ(f.sum.lost, 0);
    check_file(&f);
    CHECK_EQ(count(&f, TRACE_CREATE), 4 * scaled(2000));
    file_free(&f);
}

static enum step waits_once(task *t, m *mp) {
    (void)mp;
    if (t->pc++) return STEP_END;
    wait_begin(&t->gp->parker);
    return STEP_PARK;
}

/* A thread that makes a g runnable is preempted between the two steps of boundq_push (a busy
 * machine, seldom). The M looked for what it knew to be there as fast as it could, kept the
 * thread from its CPU, and filled the trace with 300,000 events in 20 ms. */
static void an_m_that_waits_for_a_pusher_does_not_fill_the_trace(void) {
    int fd = start_trace(0);
    host_start(1, POLICY_GO);
    g *gp = host_go(waits_once, 0, NULL)->gp;
    while (g_status(gp) != G_WAITING || !sched_all_idle()) sched_yield();
    m *mp = load_relaxed(&gp->m);
    CHECK(parker_claim_any(&gp->parker, WAKE_OK)); /* as sched_ready, */
    store_relaxed(&gp->ready_at, nanotime());
    g_move(gp, G_WAITING, G_RUNNABLE);
    store_relaxed(&gp->link.next, NULL);
    atomic_fetch_add(&mp->bound.n, 1);
    qlink *prev = atomic_exchange(&mp->bound.tail, &gp->link);
    host_go(end_at_once, 0, NULL); /* wakes the M */
    pause_ns(20 * MILLISECOND);
    store_release(&prev->next, &gp->link);
    host_stop();
    file f = stop_trace(fd);
    CHECK_EQ(f.sum.lost, 0);
    check_p_rings(&f);
    CHECK_EQ(count(&f, TRACE_END), 2);
    CHECK(count(&f, TRACE_SPIN) < 100);
    file_free(&f);
}

int main(void) {
    RUN(a_g_is_created_runs_yields_and_ends);
    RUN(every_ready_has_its_run);
    RUN(a_declared_call_shows_where_it_began_and_ended);
    RUN(lost_events_are_counted_where_they_are_missing);
    RUN(what_cannot_be_written_is_lost_and_said);
    RUN(one_trace_at_a_time);
    RUN(nothing_is_traced_while_it_is_off);
    RUN(counts_agree_although_it_starts_and_stops_amid_work);
    RUN(a_trace_outlives_runtimes);
    RUN(stress);
    RUN(many_plain_threads_share_a_ring);
    RUN(an_m_that_waits_for_a_pusher_does_not_fill_the_trace);
    return 0;
}
