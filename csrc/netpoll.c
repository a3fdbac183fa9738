#include "netpoll.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "g.h"
#include "scheduler.h"
#include "trace.h"

enum { CHUNK_PD = 256, MAX_CHUNKS = 1 << 14, BATCH = 128 };
enum { IN_LINE = 0, SLEEPS = 1 }; /* waiter.index: where it waits */

static int epfd = -1, breakfd = -1;
static _Atomic uint32_t broken; /* an unread break is in the eventfd */
static _Atomic uint32_t waiting;
static mutex slab_lock;
static _Atomic(pd *) chunks[MAX_CHUNKS];
static uint32_t slots;
static pd *free_list;

static const uint64_t BREAK_KEY = UINT64_MAX;

int netpoll_init(void) {
    if (epfd >= 0) return 0;
    epfd = epoll_create1(EPOLL_CLOEXEC);
    if (epfd < 0) return -errno;
    breakfd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    struct epoll_event ev = {.events = EPOLLIN, .data.u64 = BREAK_KEY};
    if (breakfd < 0 || epoll_ctl(epfd, EPOLL_CTL_ADD, breakfd, &ev) < 0) {
        int err = errno;
        netpoll_fini();
        return -err;
    }
    store_relaxed(&broken, 0);
    store_relaxed(&waiting, 0);
    return 0;
}

void netpoll_fini(void) {
    if (epfd >= 0) close(epfd);
    if (breakfd >= 0) close(breakfd);
    epfd = breakfd = -1;
    slab_lock = (mutex){0}; /* after a fork: its holder may be the parent's */
}

static pd *pd_alloc(void) {
    mutex_lock(&slab_lock);
    if (!free_list) {
        mutex_unlock(&slab_lock);
        pd *chunk = calloc(CHUNK_PD, sizeof(pd));
        if (!chunk) return NULL;
        mutex_lock(&slab_lock);
        if (slots / CHUNK_PD >= MAX_CHUNKS) {
            mutex_unlock(&slab_lock);
            free(chunk);
            return NULL;
        }
        for (uint32_t i = CHUNK_PD; i-- > 0;) {
            chunk[i].index = slots + i;
            chunk[i].next_free = free_list;
            free_list = &chunk[i];
        }
        store_release(&chunks[slots / CHUNK_PD], chunk);
        slots += CHUNK_PD;
    }
    pd *d = free_list;
    free_list = d->next_free;
    mutex_unlock(&slab_lock);
    return d;
}

pd *netpoll_open(int fd) {
    pd *d = pd_alloc();
    if (!d) {
        errno = ENOMEM;
        return NULL;
    }
    d->fd = fd;
    d->own_fd = false;
    store_relaxed(&d->closing, false);
    store_relaxed(&d->hup, false);
    for (int i = 0; i < 2; i++) {
        store_relaxed(&d->dir[i].state, 1); /* hope for the best: the first call just tries */
        store_relaxed(&d->dir[i].line, 0);
        d->dir[i].queue = (waitq){NULL, NULL};
        d->dir[i].sleeper = NULL;
    }
    uint32_t gen = load_relaxed(&d->gen) + 1;
    if (gen == UINT32_MAX) gen = 1; /* never BREAK_KEY */
    store_release(&d->gen, gen);
    struct epoll_event ev = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLPRI | EPOLLET,
                             .data.u64 = (uint64_t)gen << 32 | d->index};
    int r = epoll_ctl(epfd, EPOLL_CTL_ADD, fd, &ev);
    if (r < 0 && errno == EEXIST && (d->fd = fcntl(fd, F_DUPFD_CLOEXEC, 0)) >= 0) {
        d->own_fd = true;
        r = epoll_ctl(epfd, EPOLL_CTL_ADD, d->fd, &ev);
    }
    if (r < 0) {
        int err = errno;
        netpoll_free(d);
        errno = err;
        return NULL;
    }
    return d;
}

/* Wakes w, which was claimed, after the lock was dropped. */
static void wake(waiter *w) {
    parker_unpark(w->parker);
    atomic_fetch_sub(&waiting, 1); /* not before: it would look like a deadlock */
}

/* The next in line whose wait isn't over yet, claimed; under the lock. */
static waiter *next_in_line(pd *d, int mode, uint8_t why) {
    waiter *w = waitq_claim(&d->dir[mode].queue, why);
    if (w) atomic_fetch_sub(&d->dir[mode].line, 2);
    return w;
}

/* The sleeping holder, claimed, if there is one; under the lock. */
static waiter *rouse(pd *d, int mode, uint8_t why) {
    waiter *w = d->dir[mode].sleeper;
    if (!w) return NULL;
    d->dir[mode].sleeper = NULL;
    return parker_claim(w->parker, w->seq, why) ? w : NULL; /* else it uncounts itself */
}

static void close_own(pd *d) {
    if (d->own_fd) close(d->fd);
    d->own_fd = false;
}

void netpoll_close(pd *d) {
    mutex_lock(&d->lock);
    if (load_relaxed(&d->closing)) {
        mutex_unlock(&d->lock);
        return;
    }
    store_release(&d->closing, true);
    store_release(&d->gen, load_relaxed(&d->gen) + 1); /* events still on their way are stale */
    mutex_unlock(&d->lock);
    struct epoll_event ev = {0};
    epoll_ctl(epfd, EPOLL_CTL_DEL, d->fd, &ev);
    close_own(d);
    bool outside = !sched_self; /* who then has to look whether those it woke wait again, for good */
    if (outside) sched_external(1);
    for (int mode = 0; mode < 2; mode++)
        for (waiter *w;;) {
            mutex_lock(&d->lock);
            if (!(w = rouse(d, mode, WAKE_CLOSED))) w = next_in_line(d, mode, WAKE_CLOSED);
            mutex_unlock(&d->lock);
            if (!w) break;
            wake(w);
        }
    if (outside) sched_external(-1);
}

void netpoll_free(pd *d) {
    mutex_lock(&d->lock);
    store_release(&d->gen, load_relaxed(&d->gen) + 1);
    mutex_unlock(&d->lock);
    close_own(d);
    mutex_lock(&slab_lock);
    d->next_free = free_list;
    free_list = d;
    mutex_unlock(&slab_lock);
}

void netpoll_drained(pd *d, int mode, uint64_t state) {
    if (load_relaxed(&d->hup)) return;
    atomic_compare_exchange_strong_explicit(&d->dir[mode].state, &state, state & ~1ULL, memory_order_seq_cst,
                                            memory_order_relaxed);
}

enum poll_result netpoll_queue(pd *d, int mode, parker *k, waiter *w) {
    _Atomic uint32_t *line = &d->dir[mode].line;
    mutex_lock(&d->lock);
    if (load_relaxed(&d->closing)) {
        mutex_unlock(&d->lock);
        return POLL_CLOSED;
    }
    uint32_t seen = load_relaxed(line);
    while (!atomic_compare_exchange_weak_explicit(line, &seen, seen & 1 ? seen + 2 : seen | 1,
                                                  memory_order_acq_rel, memory_order_relaxed)) {
    }
    if (seen & 1) {
        waiter_init(w, k, wait_begin(k));
        waitq_push(&d->dir[mode].queue, w);
        atomic_fetch_add(&waiting, 1);
    }
    mutex_unlock(&d->lock);
    return seen & 1 ? POLL_PARK : POLL_AGAIN;
}

void netpoll_leave_slow(pd *d, int mode) {
    mutex_lock(&d->lock);
    waiter *w = next_in_line(d, mode, WAKE_OK);
    if (!w) atomic_fetch_and(&d->dir[mode].line, ~1U);
    mutex_unlock(&d->lock);
    if (w) wake(w);
}

enum poll_result netpoll_wait(pd *d, int mode, uint64_t state, parker *k, waiter *w) {
    mutex_lock(&d->lock);
    enum poll_result r = POLL_PARK;
    if (load_relaxed(&d->closing))
        r = POLL_CLOSED;
    else if (load_relaxed(&d->dir[mode].state) >> 1 != state >> 1)
        r = POLL_AGAIN;
    else {
        waiter_init(w, k, wait_begin(k));
        w->index = SLEEPS;
        d->dir[mode].sleeper = w;
        atomic_fetch_add(&waiting, 1);
    }
    mutex_unlock(&d->lock);
    return r;
}

void netpoll_unwait(pd *d, int mode, waiter *w) {
    mutex_lock(&d->lock);
    atomic_fetch_sub(&waiting, 1);
    if (w->index == SLEEPS) {
        if (d->dir[mode].sleeper == w) d->dir[mode].sleeper = NULL; /* else an event dropped it already */
    } else {
        waitq_remove(&d->dir[mode].queue, w);
        atomic_fetch_sub(&d->dir[mode].line, 2);
    }
    mutex_unlock(&d->lock);
}

static int dispatch(struct epoll_event *ev) {
    uint32_t index = (uint32_t)ev->data.u64, gen = (uint32_t)(ev->data.u64 >> 32);
    pd *d = load_acquire(&chunks[index / CHUNK_PD]) + index % CHUNK_PD;
    if (load_acquire(&d->gen) != gen) return 0;
    uint32_t all = EPOLLERR | EPOLLHUP;
    uint32_t bits[2] = {EPOLLIN | EPOLLRDHUP | EPOLLPRI | all, EPOLLOUT | all};
    int woken = 0;
    for (int mode = 0; mode < 2; mode++) {
        if (!(ev->events & bits[mode])) continue;
        mutex_lock(&d->lock);
        if (load_relaxed(&d->gen) != gen) {
            mutex_unlock(&d->lock);
            return woken;
        }
        if (ev->events & (EPOLLRDHUP | EPOLLPRI | all)) store_relaxed(&d->hup, true);
        uint64_t state = load_relaxed(&d->dir[mode].state);
        store_seq(&d->dir[mode].state, ((state >> 1) + 1) << 1 | 1);
        waiter *w = rouse(d, mode, WAKE_OK);
        mutex_unlock(&d->lock);
        if (w) {
            wake(w);
            woken++;
        }
    }
    return woken;
}

int netpoll(int64_t deadline) {
    struct epoll_event events[BATCH];
    int64_t left = 0;
    if (deadline == INT64_MAX)
        left = -1;
    else if (deadline) {
        left = deadline - nanotime();
        if (left < 0) left = 0;
    }
    struct timespec ts = {left / SECOND, left % SECOND};
    int n = epoll_pwait2(epfd, events, BATCH, left < 0 ? NULL : &ts, NULL);
    if (n < 0 && errno == ENOSYS) /* before Linux 5.11: whole milliseconds, rounded up */
        n = epoll_wait(epfd, events, BATCH, left < 0 ? -1 : (int)((left + 999999) / MILLISECOND));
    int woken = 0;
    for (int i = 0; i < n; i++) {
        if (events[i].data.u64 == BREAK_KEY) {
            /* The break is for the thread that blocks: a look in passing leaves it (the
             * eventfd is level-triggered). Read, then unarm: the other way round, a break
             * in between was read away and `broken` stayed set for good. One that comes
             * before the unarming is skipped, rightly: this thread is on its way back and
             * looks at everything again. */
            uint64_t value;
            if (!deadline) continue;
            if (read(breakfd, &value, sizeof value) < 0) continue;
            atomic_exchange(&broken, 0);
        } else
            woken += dispatch(&events[i]);
    }
    if (woken) trace_event(TRACE_NETPOLL, 0, woken);
    return woken;
}

void netpoll_break(void) {
    if (atomic_exchange(&broken, 1)) return;
    uint64_t one = 1;
    while (write(breakfd, &one, sizeof one) < 0 && errno == EINTR) {
    }
}

uint32_t netpoll_waiters(void) { return load_seq(&waiting); }
