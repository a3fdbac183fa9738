/* stack: Python stacks as code objects and offsets, and a table that adds up samples by stack
 * and labels. For profiles (pyprof.c); lines and names are worked out when one is read. */
#ifndef GMPY_STACK_H
#define GMPY_STACK_H

#include "bridge.h"

enum { STACK_DEPTH = 64 /* innermost frames that are kept */ };

/* Innermost first. Holds references to the codes until stack_drop. */
typedef struct stack {
    int n;
    PyObject *code[STACK_DEPTH];
    int lasti[STACK_DEPTH];
} stack;

/* On a free-threaded build everybody else stands at a safe point from stop to start: their
 * frames, and those of their parked G's, stand still. A stopped thread may hold any lock, so
 * nothing is locked and nothing allocated meanwhile. With the GIL, holding it is enough, and
 * these do nothing. */
void world_stop(void);
void world_start(void);

/* The stack of ts: the calling thread's own, or another's while the world stands still. */
void stack_of_thread(stack *s, PyThreadState *ts);
/* The stack of a started g, while the world stands still. */
void stack_of_g(stack *s, g *gp);
void stack_drop(stack *s);

typedef struct labels {
    const char *state; /* static text; NULL: none */
    PyObject *name;    /* of the G: a str, the code of its function, or a type; may be NULL */
    uint64_t g;        /* its id; 0: none */
    int32_t m, p;      /* -1: none */
} labels;

/* A bucket is one combination of stack and labels. It is never freed before the table. What
 * comes when there are `max` of them is counted in `dropped`. */
typedef struct bucket bucket;
typedef struct stacktab {
    mutex lock;
    bucket **slot; /* TABLE_SLOTS chains */
    uint32_t n, max;
    double dropped, dropped_value;
} stacktab;

/* Takes references of its own to what a new bucket names; the caller keeps its own. s may be
 * NULL: no stack. Never raises: without memory the sample counts as dropped. */
void stacktab_add(stacktab *t, const labels *l, const stack *s, double count, double value);
/* [(state, name, g, m, p, count, value, ((code, line), ...)), ...], innermost frame first. */
PyObject *stacktab_read(stacktab *t);
void stacktab_fini(stacktab *t);

#endif
