/* The lock and the wait group, used by plain threads. */
#include "../gsync.h"
#include "check.h"

static _Thread_local parker k;
static _Thread_local waiter w;
static glock l;

static void held_or_free(void) {
    CHECK(glock_try(&l) && !glock_try(&l));
    CHECK(glock_release(&l) && !glock_release(&l));
    CHECK(glock_wait(&l, &k, &w, nanotime(), false)); /* free: taken at once */
    CHECK(glock_release(&l) && l.word == 0);
}

static void release_wakes_the_first_and_lets_newcomers_in(void) {
    CHECK(glock_try(&l));
    CHECK(!glock_wait(&l, &k, &w, nanotime() + SECOND, false)); /* not long, whatever holds this thread up */
    CHECK_EQ(l.nwaiters, 1);
    CHECK(glock_release(&l));
    CHECK(note_sleep(&k.note, 0) && k.wake == WAKE_OK && !w.ok);
    CHECK_EQ(l.nwaiters, 0);
    CHECK(glock_try(&l)); /* nobody reserved it */
    CHECK(glock_release(&l));
}

static void who_waited_long_is_handed_the_lock(void) {
    CHECK(glock_try(&l));
    CHECK(!glock_wait(&l, &k, &w, nanotime() - 2 * MILLISECOND, false));
    CHECK(glock_release(&l));
    CHECK(note_sleep(&k.note, 0) && w.ok);
    CHECK(!glock_try(&l) && glock_release(&l) && l.word == 0);
}

static void a_wait_taken_back_leaves_no_trace(void) {
    CHECK(glock_try(&l));
    CHECK(!glock_wait(&l, &k, &w, nanotime(), false));
    CHECK(wait_take_back(&k, load_relaxed(&k.word) >> 2, WAKE_TIMEOUT));
    glock_unwait(&l, &w);
    CHECK(l.nwaiters == 0 && !l.waiters.first);
    CHECK(glock_release(&l) && l.word == 0);
}

static void who_waits_is_told_in_order(void) {
    static parker other;
    static waiter other_w;
    static g green = {.id = 42};
    uint64_t ids[2];
    CHECK_EQ(glock_line(&l, ids, 2), 0);
    CHECK(glock_try(&l));
    green.parker.g = &green;
    store_relaxed(&green.status, G_RUNNING);
    CHECK(!glock_wait(&l, &green.parker, &green.waiter, nanotime(), false));
    CHECK(!glock_wait(&l, &other, &other_w, nanotime(), false));
    CHECK_EQ(glock_line(&l, ids, 2), 2);
    CHECK(ids[0] == 42 && ids[1] == 0);
    ids[1] = 7;
    CHECK_EQ(glock_line(&l, ids, 1), 2); /* no room for all */
    CHECK_EQ(ids[1], 7);
    CHECK(wait_take_back(&green.parker, load_relaxed(&green.parker.word) >> 2, WAKE_TIMEOUT));
    CHECK(wait_take_back(&other, load_relaxed(&other.word) >> 2, WAKE_TIMEOUT));
    glock_unwait(&l, &green.waiter);
    glock_unwait(&l, &other_w);
    CHECK(glock_release(&l) && l.word == 0);
}

static void a_plain_thread_does_not_spin(void) {
    CHECK(!glock_spin(&l, false)); /* nobody says that the holder runs meanwhile */
    CHECK(glock_try(&l) && !glock_spin(&l, true) && glock_release(&l));
}

static void wait_group_counts(void) {
    waitgroup g = {.count = 0};
    CHECK(waitgroup_wait(&g, &k, &w));
    CHECK(!waitgroup_add(&g, -1) && waitgroup_add(&g, 2));
    CHECK(!waitgroup_wait(&g, NULL, NULL) && !waitgroup_wait(&g, &k, &w));
    CHECK(waitgroup_add(&g, -1) && !note_sleep(&k.note, 1));
    CHECK(!waitgroup_add(&g, -2) && waitgroup_add(&g, -1));
    CHECK(note_sleep(&k.note, 0) && k.wake == WAKE_OK);
}

/* ---- stress */

static uint64_t guarded;
static _Atomic uint64_t rounds_done;
static waitgroup group;

static void lock_often(int i) {
    uint64_t rand = seed(i);
    for (int64_t r = 0; r < scaled(30000); r++) {
        bool mine = glock_try(&l), gave_up = false;
        int64_t since = nanotime();
        for (bool again = false; !mine && !gave_up; again = true) {
            if ((mine = glock_wait(&l, &k, &w, since, again))) break;
            uint64_t seq = load_relaxed(&k.word) >> 2;
            if (!note_sleep(&k.note,
                            rand_next(&rand) % 4 ? 0 : nanotime() + rand_next(&rand) % (100 * MICROSECOND))) {
                if ((gave_up = wait_take_back(&k, seq, WAKE_TIMEOUT))) {
                    glock_unwait(&l, &w);
                    break;
                }
                note_sleep(&k.note, 0);
            }
            mine = w.ok;
        }
        if (gave_up) continue;
        guarded++; /* plain: a sanitizer sees two owners */
        atomic_fetch_add(&rounds_done, 1);
        CHECK(glock_release(&l));
    }
    waitgroup_add(&group, -1);
}

static void lock_or_wait(int i) {
    if (i < 4)
        lock_often(i);
    else if (!waitgroup_wait(&group, &k, &w))
        note_sleep(&k.note, 0);
}

static void lock_excludes_and_nobody_is_forgotten(void) {
    CHECK(waitgroup_add(&group, 4));
    threads(6, lock_or_wait);
    CHECK_EQ(guarded, rounds_done);
    CHECK(l.word == 0 && l.nwaiters == 0 && !l.waiters.first);
}

int main(void) {
    RUN(held_or_free);
    RUN(release_wakes_the_first_and_lets_newcomers_in);
    RUN(who_waited_long_is_handed_the_lock);
    RUN(a_wait_taken_back_leaves_no_trace);
    RUN(a_plain_thread_does_not_spin);
    RUN(who_waits_is_told_in_order);
    RUN(wait_group_counts);
    RUN(lock_excludes_and_nobody_is_forgotten);
    return 0;
}
