/* sched: M's, P's, and which g runs next.
 *
 * The way of a g: sched_go puts it into the P's runq; some M's sched_next takes it (from
 * its own P, the global queue, or by stealing); the host runs it; it parks (the host
 * calls sched_next again, from inside the g); somebody unparks it, which puts it into
 * its M's boundq; that M's sched_next returns it; in the end sched_end.
 *
 * ---- Who owns the P: m->hold.
 * An M that holds a P either runs host code (HOLD_HOST, or HOLD_SYSCALL if it said that
 * it may block) or is inside the core (HOLD_CORE). Only in the first two may sysmon take
 * the P away, by CAS to HOLD_TAKEN under sched.lock; entering the core is an exchange to
 * HOLD_CORE that sees whether that happened. So inside the core a P has one owner, and
 * the price is one exchange on the M's own cache line.
 *
 * ---- Sleeping without losing a wake-up (Dekker, seq_cst on both sides).
 *   sleeper: m->p = NULL; then looks at its boundq (and all run queues)
 *   waker:   pushes;      then looks at m->p
 * At least one of them sees the other. What a waker does about an M without a P happens
 * under sched.lock, with m->state:
 *   M_RUN    has a P, or has been given one (nextp) and is being woken
 *   M_IDLE   asleep (or in netpoll), wants nothing
 *   M_WANTP  asleep, has runnable g's; its token is in the global queue
 *   M_NOP    lost its P in host code; will ask for one when it enters the core
 * A token is queued only where no P was idle, under the same hold of the lock (p_or_token, the one
 * place that queues them); and who idles a P looks at the global queue afterwards. So no token waits
 * beside an idle P that nobody looks after.
 *
 * ---- Reserved P's and the latency class.
 * The first S.reserve P's run only g's of the latency class; those g's may use any P. As a
 * started g can't leave its M, M's have a class, too: a latency M starts only latency g's,
 * so that no hog is ever ahead of one. Fresh latency g's and the tokens of latency M's wait
 * in S.latq, everything else in runqs and S.globq; idle M's and idle P's are listed by class.
 *   who        starts               may hold   leaves an open P after 1 ms
 *   ordinary   runq, globq, steals  open P's   when latq isn't empty: lends it
 *   latency    latq                 any P      when ordinary work waits: gives it back
 * (An open P is one that isn't reserved.) The protocol of sleeping holds for latq as for the
 * others: who pushes looks for idle P's of both kinds afterwards (sched_wakel), who idles a P
 * of either kind looks at latq afterwards. With S.reserve == 0 latency g's are like others;
 * latency M's and latq that are left from before are served all the same.
 * A P may become reserved, or open, at any time: whoever holds it sees that at its next look.
 */
#ifndef GMPY_SCHED_H
#define GMPY_SCHED_H

#include <pthread.h>

#include "g.h"
#include "runq.h"
#include "stat.h"
#include "timer.h"
#include "trace.h"

enum { MAX_P = 256, MAX_M = 4096 };

enum hold { HOLD_HOST = 0, HOLD_CORE, HOLD_SYSCALL, HOLD_TAKEN };
enum m_state { M_RUN = 0, M_IDLE, M_WANTP, M_NOP };
enum p_status { P_RETIRED = 0, P_IDLE, P_RUNNING }; /* moves: see p_legal */
enum turn { TURN_BOUND = 0, TURN_FRESH };

/* What a thread of the host is doing, for sysmon. */
enum host_state { HOST_RUNNING, HOST_DETACHED, HOST_UNKNOWN };

typedef struct host_ops {
    /* The body of an M: runs what sched_next returns until that is NULL. */
    void (*m_main)(m *mp);
    /* Around every sleep of an M in the core. */
    void (*detach)(m *mp);
    void (*attach)(m *mp);
    /* Called by sysmon: must not block. */
    enum host_state (*state)(m *mp);
    bool (*preempt)(m *mp);
    /* Everybody waits and nothing in the core can wake anybody; or the last g ended. */
    void (*idle)(void);
    bool spin; /* M's may spin (not where they'd hold a GIL) */
} host_ops;

struct p {
    alignas(CACHE_LINE) uint32_t id;
    _Atomic uint32_t status;
    _Atomic(m *) m;
    _Atomic bool retire;   /* GOMAXPROCS went down: give it up at the next look */
    _Atomic bool reserved; /* for the latency class */
    p *next_idle;
    runq runq;
    timers timers;
    uint64_t rand;
    uint32_t last_victim;        /* policy affine */
    int64_t globq_empty_at;      /* policy neighbour */
    _Atomic int64_t slice_since; /* when its M picked the g that it runs */
    int64_t latq_since;          /* since when it saw work wait in latq; 0: it didn't */
    pstat stat;
    /* sysmon's notes */
    uint64_t seen_host;
    int64_t host_since;
    int64_t preempt_asked_at;
};

struct m {
    alignas(CACHE_LINE) _Atomic uint32_t hold;
    _Atomic(p *) p;
    _Atomic(g *) cur; /* the g it runs */
    enum turn turn;
    uint32_t streak;
    int64_t turn_since, p_since;
    _Atomic int64_t run_since; /* when cur was picked */
    bool solo;                 /* made for g's whose function blocks: one at a time */
    bool latency;              /* its class, for good */
    bool spinning;
    int32_t spin_luck; /* how well spinning paid lately */
    uint32_t spin_dry;
    _Atomic bool no_fresh;    /* locked or solo: starts no g's but its own. Written by the M */
    int32_t locks;            /* lock_os_thread() calls */
    bool fresh_first;         /* the last g yielded, and is its only bound one: not it again */
    bool yield_to_global;     /* the last g was preempted: look at the global queue first */
    _Atomic uint64_t entries; /* how often it entered the core: tells sysmon one call from the next */
    _Atomic uint32_t pinned;  /* live started g's */
    uint64_t next_id, end_id; /* ids for the g's it makes */
    boundq bound;
    /* under sched.lock */
    alignas(CACHE_LINE) enum m_state state;
    p *nextp;
    p *lastp;
    bool polling;
    bool idle_listed;
    _Atomic bool token_queued;
    m *next_idle;
    qlink token;
    _Atomic bool nop_undeclared; /* its P was taken in a call that it hadn't declared */
    _Atomic int64_t nop_since;
    note note;
    uint32_t id;
    pthread_t thread;
    _Atomic(void *) host; /* malloc'ed by the host, freed with the M */
};

typedef struct sched {
    mutex lock;
    globq globq;
    globq latq;              /* the latency class's */
    _Atomic uint32_t nidlep; /* open ones */
    _Atomic uint32_t nidler; /* reserved ones */
    _Atomic uint32_t nspinning;
    _Atomic uint32_t nspinningl; /* latency M's: they look at latq before they sleep */
    _Atomic uint32_t procs;
    _Atomic uint32_t reserve;
    _Atomic uint32_t nm;
    _Atomic uint32_t nnop;
    p *idlep, *idler;
    m *idlem, *idlel; /* ordinary, latency */
    _Atomic(m *) poller;
    _Atomic int64_t poll_until;
    _Atomic int64_t last_poll;
    _Atomic int64_t last_look;              /* an M with a P last wanted to poll */
    span polled;                            /* M's asleep in netpoll */
    _Atomic int64_t polled_seen, idle_seen; /* the most that readers were told */
    _Atomic(p *) allp[MAX_P];
    _Atomic uint32_t maxp; /* P's ever made */
    _Atomic(m *) allm[MAX_M];
    _Atomic uint32_t visitors;        /* threads that sched_stop waits for: see visit */
    _Atomic uint64_t created_outside; /* by plain threads */
    _Atomic bool running;
    _Atomic bool draining; /* the host waits for the last g: ops.idle tells it */
    _Atomic bool stopping; /* M's without work end */
    _Atomic uint32_t policy;
    _Atomic int64_t spin_ns, steal_grace_ns;
    _Atomic int64_t slice_ns;
    _Atomic bool preempt_now; /* sysmon: don't wait for slices to end, once */
    _Atomic bool sysmon_asleep;
    note sysmon_note;
    pthread_t sysmon_thread;
    _Atomic uint64_t next_id;
    host_ops ops;
} sched;

extern sched S;
extern _Thread_local m *sched_self __attribute__((tls_model("initial-exec"))); /* NULL: a plain thread */

enum policy { POLICY_GO = 0, POLICY_GLOBAL_FIRST, POLICY_NEIGHBOUR, POLICY_AFFINE, POLICIES };

/* ---- life. 0 or -errno. */
int sched_start(const host_ops *ops, uint32_t procs, uint32_t policy);
/* Ends the M's, joins them and sysmon. Call from a plain thread once no g lives: an M that
 * finds nothing to run ends, whoever still waits on it. */
void sched_stop(void);
/* Between these two M's and P's may be looked at from any thread: sched_stop waits. False:
 * there is nothing to look at. */
bool sched_look(void);
void sched_look_end(void);
/* In a forked child: forget everything, the other threads don't exist. */
void sched_after_fork(void);
uint32_t sched_set_procs(uint32_t n);   /* at least one open P stays. Returns what it was */
uint32_t sched_set_reserve(uint32_t n); /* at most procs - 1. Returns what it was */
uint64_t sched_live(void);              /* g's that were made and haven't ended */
bool sched_deadlocked(void);
/* What was first left behind by a lost wake-up, in this process; "" if nothing ever was. */
const char *sched_left_told(void);
/* Calls under way outside, which will wake somebody: by 1 before, by -1 afterwards. Any thread. */
void sched_external(int32_t by);
uint32_t sched_externals(void);
bool sched_all_idle(void); /* no P runs, and no M came off its P */

/* ---- the core's door: an M calls these around everything below. */
p *sched_came_back(m *mp, uint32_t hold); /* the slow half of enter: after a declared call or without a P */
static inline p *sched_enter(m *mp) {
    count_add(&mp->entries, 1);
    uint32_t hold = atomic_exchange_explicit(&mp->hold, HOLD_CORE, memory_order_acquire);
    if (unlikely(hold >= HOLD_SYSCALL)) return sched_came_back(mp, hold);
    return load_relaxed(&mp->p);
}
static inline void sched_leave(m *mp) { store_release(&mp->hold, HOLD_HOST); }
/* Declares a call that may block: sysmon may take the P. Outside the door; ends with
 * sched_enter. Not a plain store: the P may have been taken in an earlier call that nobody
 * declared, and HOLD_TAKEN must stay. */
static inline void sched_syscall(m *mp) {
    uint32_t host = HOLD_HOST;
    trace_event(TRACE_SYSCALL, trace_who(), 0);
    atomic_compare_exchange_strong_explicit(&mp->hold, &host, HOLD_SYSCALL, memory_order_release,
                                            memory_order_relaxed);
}

/* ---- g's. Inside the door, or from a plain thread. */
/* IDLE -> RUNNABLE, fresh. False, from a plain thread only: the runtime ends already, or isn't
 * there; nothing was done. */
bool sched_go(g *gp);
void sched_ready(g *gp);                       /* WAITING -> RUNNABLE: any thread */
void sched_yield_g(m *mp, g *gp, int64_t now); /* RUNNING -> RUNNABLE: behind the others of its M */
void sched_end(m *mp, g *gp);                  /* RUNNING -> DEAD -> IDLE; the slot is the host's to free */
/* The g to run now, already RUNNING; fresh ones are pinned to mp. NULL: this M ends. */
g *sched_next_at(m *mp, int64_t now); /* now: a time just read, or 0 */
static inline g *sched_next(m *mp) { return sched_next_at(mp, 0); }

/* May a g of this M look again and again for what a g on another M does soon? (As Go's
 * runtime_canSpin: another P runs, and nobody waits for this one.) Outside the door. */
bool sched_may_spin(void);

/* Is mp coming back from a long call that it hadn't declared, and lost its P in it? (For the
 * g's ends; g->blocked tells it of earlier calls.) */
bool sched_blocked_long(m *mp);

/* ---- between the files of the scheduler */
void sched_wakep(void);
void sched_wakel(void); /* the same for latq */
/* latency_first: where pp could run both, it runs the latency class's work. */
void sched_handoffp(p *pp, bool latency_first);
/* The global queue of mp's class. */
static inline globq *globq_of(m *mp) { return mp->latency ? &S.latq : &S.globq; }
void sched_timer_added(int64_t when);
int64_t sched_next_timer(void);
void sched_run_timers(int64_t now);                      /* on all P's; any thread */
void sched_kick_poller(void);                            /* nobody polls: an idle M, see should_poll */
g *policy_find(p *pp, bool last_round, bool *too_young); /* steal, by the policy */
bool policy_skips_global(p *pp, int64_t now);
bool policy_robs_first(void); /* other P's before the global queue */
void *sysmon_main(void *arg);
void sysmon_wake(void);
/* sysmon: takes mp's P, seen to be pp, if hold is still `from`. Returns the P it got: it is
 * another one if mp changed its P just now; NULL if none. */
p *sched_retake(m *mp, p *pp, uint32_t from);
const char *policy_name(uint32_t policy);
int policy_by_name(const char *name); /* -1: unknown */

#endif
