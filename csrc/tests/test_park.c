/* Mutex, note, parker: what everything else sleeps on. */
#include <sys/wait.h>

#include "../g.h"
#include "check.h"

static mutex lock;
static uint64_t guarded;

static void lock_often(int i) {
    (void)i;
    for (int64_t r = 0; r < scaled(200000); r++) {
        mutex_lock(&lock);
        guarded++;
        mutex_unlock(&lock);
    }
}

static void mutex_excludes(void) {
    threads(4, lock_often);
    CHECK_EQ(guarded, 4 * scaled(200000));
    CHECK_EQ(lock.word, 0);
}

static void note_remembers_and_times_out(void) {
    note n = {.set = 0};
    note_wake(&n);
    CHECK(note_sleep(&n, 0));
    int64_t start = nanotime();
    CHECK(!note_sleep(&n, start + 5 * MILLISECOND));
    CHECK(nanotime() - start >= 5 * MILLISECOND);
    CHECK(!note_sleep(&n, start));
}

static note there, back;

static void bounce(int i) {
    for (int64_t r = 0; r < scaled(20000); r++) {
        if (i == 0) {
            note_wake(&there);
            note_sleep(&back, 0);
        } else {
            note_sleep(&there, 0);
            note_wake(&back);
        }
    }
}

static void no_wakeup_is_lost(void) { threads(2, bounce); }

/* ---- three claim each wait of one owner; sometimes the owner does itself. */

static parker k;
static _Atomic uint64_t open_seq;
static _Atomic uint64_t wins;

static void claim(int i) {
    int64_t rounds = scaled(50000);
    if (i == 0) {
        uint64_t rand = seed(0), own = 0;
        for (int64_t r = 0; r < rounds; r++) {
            uint64_t seq = parker_begin(&k);
            store_seq(&open_seq, seq);
            if (rand_next(&rand) % 4 == 0 && wait_take_back(&k, seq, WAKE_CANCEL)) {
                own++;
                continue;
            }
            note_sleep(&k.note, 0);
            CHECK(k.wake == WAKE_OK || k.wake == WAKE_TIMEOUT);
            CHECK((load_relaxed(&k.word) & PARK_STATE_MASK) == PARK_CLAIMED);
            CHECK(load_relaxed(&k.note.set) == 0);
        }
        store_seq(&open_seq, UINT64_MAX);
        atomic_fetch_add(&wins, own);
        return;
    }
    uint64_t seq;
    while ((seq = load_seq(&open_seq)) != UINT64_MAX) {
        if (i == 3 ? !parker_claim_any(&k, WAKE_OK) : !parker_claim(&k, seq, i == 1 ? WAKE_OK : WAKE_TIMEOUT))
            continue;
        atomic_fetch_add(&wins, 1);
        parker_unpark(&k);
    }
}

static void each_wait_has_one_winner(void) {
    threads(4, claim);
    CHECK_EQ(wins, scaled(50000));
}

static void a_handle_knows_its_g(void) {
    g *gp = g_alloc();
    uint64_t handle = g_handle(gp);
    CHECK(g_lookup(handle) == gp && g_at(gp->index) == gp);
    g_free(gp);
    g *again = g_alloc();
    CHECK(again == gp && !g_lookup(handle) && g_lookup(g_handle(again)) == again);
    CHECK(!g_lookup(UINT32_MAX));
    g_free(again);
}

static void only_legal_moves(void) {
    for (uint32_t from = 0; from <= G_DEAD + 1; from++) {
        CHECK(!g_legal(from, from));
        CHECK(g_legal(from, G_IDLE) == (from == G_DEAD));
        CHECK(g_legal(from, G_WAITING) == (from == G_RUNNING));
        CHECK(g_legal(from, G_DEAD) == (from == G_RUNNING || from == G_RUNNABLE));
    }
}

/* ---- the slab: threads take and give back g's. */

static _Atomic uint32_t owned[1 << 16];

static void take_and_give(int i) {
    g *held[200];
    int n = 0;
    if (i % 2) g_cache_begin();
    uint64_t rand = seed(i);
    for (int64_t r = 0; r < scaled(200000); r++) {
        if (rand_next(&rand) & 1 ? n < 200 : n == 0) {
            held[n] = g_alloc();
            CHECK(held[n]->index < 1 << 16 && atomic_exchange(&owned[held[n]->index], 1) == 0);
            CHECK(held[n]->parker.g == held[n] && g_at(held[n]->index) == held[n]);
            n++;
        } else {
            g *gp = held[--n];
            store_seq(&owned[gp->index], 0);
            g_free(gp);
        }
    }
    while (n) {
        store_seq(&owned[held[n - 1]->index], 0);
        g_free(held[--n]);
    }
    if (i % 2) g_cache_end();
}

static void no_slot_is_given_twice(void) {
    threads(4, take_and_give);
    uint32_t slots = g_slots();
    for (int i = 0; i < 5; i++) threads(4, take_and_give);
    CHECK(g_slots() <= slots + 1024);
}

static void take_one(int i) {
    (void)i;
    g_free(g_alloc());
}

static void threads_take_no_slots_with_them(void) {
    take_one(0);
    uint32_t slots = g_slots();
    for (int i = 0; i < 200; i++) threads(4, take_one);
    CHECK(g_slots() <= slots + 4);
}

/* The child has one thread; another one may have been inside the slab. */
static _Atomic bool forking;
static void fork_or_alloc(int i) {
    if (i) {
        while (load_seq(&forking)) take_one(i);
        return;
    }
    for (int k = 0; k < 200; k++) {
        pid_t child = fork();
        CHECK(child >= 0);
        if (child == 0) {
            alarm(10);
            g_after_fork();
            for (int n = 0; n < 100; n++) take_one(n);
            _exit(0);
        }
        int status;
        CHECK(waitpid(child, &status, 0) == child && status == 0);
    }
    store_seq(&forking, false);
}

static void a_forked_child_can_make_gs(void) {
#ifndef __SANITIZE_THREAD__ /* it doesn't follow a fork of several threads */
    store_seq(&forking, true);
    threads(4, fork_or_alloc);
#endif
}

int main(void) {
    RUN(mutex_excludes);
    RUN(note_remembers_and_times_out);
    RUN(no_wakeup_is_lost);
    RUN(each_wait_has_one_winner);
    RUN(a_handle_knows_its_g);
    RUN(only_legal_moves);
    RUN(no_slot_is_given_twice);
    RUN(threads_take_no_slots_with_them);
    RUN(a_forked_child_can_make_gs);
    return 0;
}
