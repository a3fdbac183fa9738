/* trace: what the scheduler does, event by event, into a file.
 *
 * A hook is trace_event(...): while tracing is off, one relaxed load and a branch. While it
 * is on, an event of 32 bytes goes into a ring, and one thread, the drainer, moves the rings
 * to the file. gmpy_rt/_trace_export.py reads that.
 *
 * ---- Who writes which ring.
 * Each P has one: its owner writes. That is the M that holds it, inside the core (HOLD_CORE);
 * from host code an M first goes to HOLD_CORE for the moment (CAS on m->hold, which fails if
 * sysmon has taken the P meanwhile); or sysmon, between a retake and the hand-off. So a ring
 * has one writer at a time, and an owner's events happen before the next one's because P's
 * change hands under sched.lock or by a CAS on m->hold.
 * Everybody without a P (plain threads, sysmon, an M that polls or waits for a P) shares one
 * more ring, and its writers take turns under a leaf lock.
 *
 * ---- One ring: head counts what was put, tail what was moved to the file.
 * Order: put    tail (acquire), slot (plain), head (release): the drainer is done with a slot
 *               before it is written again
 *        drain  head (acquire), slots (plain), tail (release)
 * A full ring drops the event and counts it; the next one that fits is preceded by a LOST
 * record, so the file says where something is missing, and how much.
 *
 * ---- Order between rings: by time. All times are nanotime's; where clock_sync has just
 * corrected that, two threads may differ by less than a microsecond. Therefore a g carries a
 * number, raised whenever it becomes runnable (by the one who may make it so): READY and RUN
 * with the same number belong together, whatever their times say.
 *
 * ---- Start and stop: see trace.c, quiesce. */
#ifndef GMPY_TRACE_H
#define GMPY_TRACE_H

#include "core.h"

/* g: its id, 0 if none. who: the id of a g, or TRACE_THREAD | a thread's id, or 0: the scheduler. */
#define TRACE_TYPES(X)                                                                                       \
    /* the file's own */                                                                                     \
    X(CHUNK) /* arg records of ring p follow */                                                              \
    X(COUNT) /* counter number g was arg; seq: 0, 1 around the start, 2, 3 around the stop */                \
    X(LOST)  /* arg events are missing here */                                                               \
    /* g's */                                                                                                \
    X(CREATE) /* arg: who */                                                                                 \
    X(READY)  /* was waiting; arg: who */                                                                    \
    X(RUN)    /* arg: since when it was runnable */                                                          \
    X(PARK)   /* arg: enum wait_reason */                                                                    \
    X(YIELD)  /* arg: 1 if it was preempted */                                                               \
    X(END)                                                                                                   \
    X(NAME) /* arg: number of its name; seq: 1 if it was given to it, 0 if it is its function's */           \
    /* calls that block */                                                                                   \
    X(SYSCALL)      /* declares one */                                                                       \
    X(SYSCALL_EXIT) /* comes back with its P */                                                              \
    X(RETAKE)       /* sysmon takes p and hands it on; arg: 1 if the call was declared */                    \
    X(RETURN)       /* m is back, without a P */                                                             \
    X(RESUME)       /* ... and has one again: g runs on */                                                   \
    /* P's and M's */                                                                                        \
    X(P_START)                                                                                               \
    X(P_STOP)                                                                                                \
    X(SPIN) /* looks for work elsewhere */                                                                   \
    X(SPIN_END)                                                                                              \
    X(STEAL)   /* arg: victim << 32 | g's */                                                                 \
    X(TOKEN)   /* hands p to M arg */                                                                        \
    X(PREEMPT) /* sysmon asks the g on p to yield */                                                         \
    X(NETPOLL) /* arg: g's woken */                                                                          \
    X(TIMER)   /* arg: ns late; g: whom it woke */                                                           \
    X(PROCS)   /* arg: GOMAXPROCS from now on */                                                             \
    X(STOPPED) /* the runtime has ended: no G, M or P is left */                                             \
    /* the user's; g may be TRACE_THREAD | a thread's id. arg: number of the name */                         \
    X(REGION)                                                                                                \
    X(REGION_END)                                                                                            \
    X(BLOCKING) /* g waits for a call on the thread pool */                                                  \
    X(BLOCKING_END)                                                                                          \
    X(LOG) /* arg: category << 32 | message */

enum trace_type {
#define X(name) TRACE_##name,
    TRACE_TYPES(X)
#undef X
        TRACE_TYPE_COUNT
};

enum { TRACE_NONE = 0xFFFF, TRACE_SYSMON = 0xFFFE }; /* for p and m */
#define TRACE_THREAD (1ULL << 63)

typedef struct trace_rec {
    int64_t when;
    uint64_t g, arg;
    uint16_t seq, p, m;
    uint8_t type, unused;
} trace_rec;

extern _Atomic bool trace_on;
extern _Thread_local uint16_t trace_thread; /* what stands for m where there is no M */

static inline bool tracing(void) { return unlikely(load_relaxed(&trace_on)); }

/* when: a time just read, or 0. */
void trace_emit(enum trace_type type, uint64_t gid, uint16_t seq, uint64_t arg, int64_t when);
/* By pp's owner for another M: sysmon. */
void trace_emit_owner(p *pp, m *mp, enum trace_type type, uint64_t gid, uint64_t arg);
/* By anybody, about pp and mp. */
void trace_emit_about(p *pp, m *mp, enum trace_type type, uint64_t arg);
uint64_t trace_who(void); /* who is calling, as an arg */

/* The hooks. The arguments are evaluated only while tracing is on. */
#define trace_event(type, gid, arg)                                                                          \
    do {                                                                                                     \
        if (tracing()) trace_emit((type), (gid), 0, (uint64_t)(arg), 0);                                     \
    } while (0)
/* gp becomes runnable: by the one who may make it so, before it is in a queue. */
#define trace_runnable(type, gp, arg)                                                                        \
    do {                                                                                                     \
        if (tracing()) trace_emit((type), (gp)->id, ++(gp)->trace_seq, (uint64_t)(arg), 0);                  \
    } while (0)
/* gp's M has taken it from its queue. */
#define trace_run(gp)                                                                                        \
    do {                                                                                                     \
        if (tracing())                                                                                       \
            trace_emit(TRACE_RUN, (gp)->id, (gp)->trace_seq, (uint64_t)load_relaxed(&(gp)->ready_at), 0);    \
    } while (0)
/* gp's M parks it; `when`: just read. Somebody may have made it runnable again already. */
#define trace_park(gp, reason, when)                                                                         \
    do {                                                                                                     \
        if (tracing()) trace_emit(TRACE_PARK, (gp)->id, 0, (reason), (when));                                \
    } while (0)

/* ---- control. Any thread that is not inside the core; one trace at a time. */
typedef struct trace_sum {
    uint64_t events, lost; /* in the file; not in it */
    int64_t begin, end;
    int error;  /* errno of the first write that failed: the rest is counted as lost */
    bool exact; /* the COUNT records frame what was traced; else somebody stayed in the core for too long */
} trace_sum;

enum { TRACE_RING = 1 << 17 }; /* events; 4 MB, touched as needed */

/* limit: events a ring holds, at most TRACE_RING; 0: that many. 0 or -errno (EBUSY: one runs). */
int trace_start(int fd, uint32_t limit);
/* Everything is in the file when it returns. 0 or -errno (EINVAL: none runs). */
int trace_stop(trace_sum *out);

/* ---- for the scheduler's files */
/* Around what sched_stop does once its threads have ended: no trace starts or stops meanwhile. */
void trace_runtime_ends(void);
void trace_runtime_ended(void);
void trace_after_fork(void);

#endif
