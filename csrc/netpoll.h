/* netpoll: one edge-triggered epoll instance; a poll descriptor (pd) for each fd.
 *
 * Each direction of a pd has a line and one word of readiness.
 *
 * The line (Go's fdMutex): g's do their operations in the order in which they came. Who
 * holds it may try, and may sleep until an edge comes; the others wait behind it in a
 * queue. line = waiters << 1 | held. Free to held and back, with nobody waiting, is one CAS
 * without the lock; everything else happens under the pd's leaf lock. A waiter that is
 * claimed by something else (timeout, cancel) uncounts itself in netpoll_unwait.
 *
 * The readiness: state = edges << 1 | ready, read without the lock:
 *
 *   - an event adds an edge, sets ready, and wakes the holder if it sleeps;
 *   - an operation notes the state before its system call. If the call would block, it
 *     sleeps, unless an edge has come since (then it tries again);
 *   - a short read from a stream means drained: it clears ready by CAS from the noted
 *     state, so that an edge that came meanwhile isn't lost. The next read then parks at
 *     once instead of asking the kernel for EAGAIN. (tokio does the same.) After a hang-up
 *     no further edge may come, so `hup` is for ever and ready is never cleared again; nor after
 *     urgent data, before which a read stops short.
 */
#ifndef GMPY_NETPOLL_H
#define GMPY_NETPOLL_H

#include "core.h"
#include "park.h"

enum { POLL_READ = 0, POLL_WRITE = 1 };

typedef struct pd {
    mutex lock;
    int fd; /* as epoll knows it: the caller's, or a duplicate of ours */
    bool own_fd;
    uint32_t index;
    _Atomic uint32_t gen;
    _Atomic bool closing;
    _Atomic bool hup;
    struct {
        _Atomic uint64_t state;
        _Atomic uint32_t line;
        waitq queue;     /* behind the holder */
        waiter *sleeper; /* the holder, while it waits for an edge */
    } dir[2];
    struct pd *next_free;
} pd;

enum poll_result { POLL_PARK = 0, POLL_AGAIN = 1, POLL_CLOSED = 2 };

/* 0 or -errno. */
int netpoll_init(void);
void netpoll_fini(void);
/* Starts watching fd; a duplicate of it, if it is watched already: by another pd, or by one
 * whose fd was closed while the file has other names. NULL with errno set (EPERM: the kernel
 * can't poll this kind). */
pd *netpoll_open(int fd);
/* Wakes every waiter with WAKE_CLOSED; later waits return POLL_CLOSED. The caller closes
 * the fd afterwards. */
void netpoll_close(pd *d);
/* Gives the slot back: nobody may use d any more. If it wasn't closed, its fd has been (the
 * kernel forgot it then) and may be another file's by now: it isn't touched. */
void netpoll_free(pd *d);

/* ---- the line */
enum poll_result netpoll_queue(pd *d, int mode, parker *k, waiter *w);
void netpoll_leave_slow(pd *d, int mode);
/* Enters the line. POLL_AGAIN: the caller holds it. POLL_PARK: k's owner has begun a wait
 * and holds it once it is woken with WAKE_OK. */
static inline enum poll_result netpoll_enter(pd *d, int mode, parker *k, waiter *w) {
    uint32_t free = 0;
    if (likely(atomic_compare_exchange_strong_explicit(&d->dir[mode].line, &free, 1, memory_order_acquire,
                                                       memory_order_relaxed)))
        return POLL_AGAIN;
    return netpoll_queue(d, mode, k, w);
}
/* The holder is done: the next in line holds it now. */
static inline void netpoll_leave(pd *d, int mode) {
    uint32_t held = 1;
    if (unlikely(!atomic_compare_exchange_strong_explicit(&d->dir[mode].line, &held, 0, memory_order_release,
                                                          memory_order_relaxed)))
        netpoll_leave_slow(d, mode);
}

/* ---- readiness: for the holder */
static inline uint64_t netpoll_state(pd *d, int mode) { return load_acquire(&d->dir[mode].state); }
static inline bool netpoll_ready(uint64_t state) { return state & 1; }
/* The operation that began at `state` has drained the fd. */
void netpoll_drained(pd *d, int mode, uint64_t state);
/* k's owner begins a wait for the next edge, unless one has come since `state`. */
enum poll_result netpoll_wait(pd *d, int mode, uint64_t state, parker *k, waiter *w);

/* Ends a wait in the line or for an edge that was woken by neither (timeout, cancel). The
 * holder still holds the line, who was in the queue has left it. */
void netpoll_unwait(pd *d, int mode, waiter *w);

/* Waits for events until the deadline (0: don't wait, INT64_MAX: for ever) and wakes who
 * waited for them. Returns how many were woken. One thread at a time may block in it. */
int netpoll(int64_t deadline);
/* Makes a blocked netpoll return. */
void netpoll_break(void);
/* Waiters on all fds. */
uint32_t netpoll_waiters(void);

#endif
