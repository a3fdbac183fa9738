/* echo_load: loads a TCP echo server on the loopback interface.
 *
 * usage: echo_load PORT CONNECTIONS SIZE SECONDS
 *
 * One thread, one epoll. Every connection sends a message, waits until all of
 * it has come back, and sends the next: a closed loop, so the latencies are
 * those of a client that waits. The clock starts when every connection has had
 * its first reply; a tenth of the time more warms up and is not counted.
 * Prints one JSON line. Bounded in time, and to 127.0.0.1. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define OVERDUE_NS 1000000000u
#define GREETING_NS 10000000000u

enum {
    MAX_CONNECTIONS = 4096,
    MAX_SIZE = 65536,
    MAX_SECONDS = 60,
    SUB_BITS = 6, /* 64 steps to each power of two: 1.6 % resolution */
    BUCKETS = 64 << SUB_BITS,
};

struct connection {
    int fd;
    uint32_t number;   /* of the message under way: makes each one different */
    size_t sent, received;
    uint64_t started;
};

static struct connection connections[MAX_CONNECTIONS];
static uint64_t histogram[BUCKETS];
static uint64_t requests, errors, slowest;
static size_t size;
static int open_connections;

/* GREETING: each connection sends one message, so that accepting and starting
 * handlers isn't measured and no connection waits behind busy ones. */
static enum { GREETING, WARMING, COUNTING } phase;
static int greeted;

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static int bucket_of(uint64_t ns)
{
    if (ns < (1u << SUB_BITS))
        return (int)ns;
    int shift = 63 - __builtin_clzll(ns) - SUB_BITS;
    return ((shift + 1) << SUB_BITS) + (int)((ns >> shift) & ((1u << SUB_BITS) - 1));
}

static uint64_t bucket_start(int bucket)
{
    if (bucket < (1 << SUB_BITS))
        return (uint64_t)bucket;
    int shift = (bucket >> SUB_BITS) - 1;
    return ((uint64_t)(bucket & ((1 << SUB_BITS) - 1)) | (1u << SUB_BITS)) << shift;
}

static double percentile_us(double share)
{
    uint64_t rank = (uint64_t)(share * (double)requests), seen = 0;
    for (int i = 0; i < BUCKETS; i++) {
        seen += histogram[i];
        if (seen > rank)
            return (double)(bucket_start(i) + bucket_start(i + 1)) / 2000.0;
    }
    return (double)slowest / 1000.0;
}

/* The byte at that place of a message: cheap, and wrong if replies get mixed up. */
static unsigned char pattern(const struct connection *c, size_t at)
{
    return (unsigned char)((size_t)(c - connections) * 31u + c->number * 7u + at);
}

static void drop(struct connection *c)
{
    errors++;
    open_connections--;
    close(c->fd);
    c->fd = -1;
}

/* Send what is left of the message. Returns 0 if the connection is gone. */
static int send_more(struct connection *c)
{
    unsigned char message[MAX_SIZE];
    for (size_t i = c->sent; i < size; i++)
        message[i] = pattern(c, i);
    while (c->sent < size) {
        ssize_t n = send(c->fd, message + c->sent, size - c->sent, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN)
            return 1;
        if (n <= 0) {
            drop(c);
            return 0;
        }
        c->sent += (size_t)n;
    }
    return 1;
}

static int next_message(struct connection *c)
{
    c->number++;
    c->sent = c->received = 0;
    c->started = now_ns();
    return send_more(c);
}

static void on_event(struct connection *c)
{
    unsigned char reply[MAX_SIZE];
    if (c->fd < 0 || !send_more(c))
        return;
    for (;;) {
        ssize_t n = recv(c->fd, reply, size - c->received, 0);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN)
            return;
        if (n <= 0) {
            drop(c);
            return;
        }
        for (ssize_t i = 0; i < n; i++) {
            if (reply[i] != pattern(c, c->received + (size_t)i)) {
                drop(c);
                return;
            }
        }
        c->received += (size_t)n;
        if (c->received < size)
            continue;
        if (phase == GREETING) {
            greeted++;
            return;
        }
        if (phase == COUNTING) {
            uint64_t took = now_ns() - c->started;
            histogram[bucket_of(took)]++;
            requests++;
            if (took > slowest)
                slowest = took;
        }
        next_message(c);
        return;
    }
}

static int connect_one(int epoll, struct connection *c, uint16_t port)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port)};
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int yes = 1;
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (c->fd < 0)
        return -1;
    if (connect(c->fd, (struct sockaddr *)&to, sizeof to) != 0)
        return -1;
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    if (fcntl(c->fd, F_SETFL, O_NONBLOCK) != 0)
        return -1;
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = c};
    return epoll_ctl(epoll, EPOLL_CTL_ADD, c->fd, &e);
}

static long in_range(const char *text, const char *what, long low, long high)
{
    char *end;
    long value = strtol(text, &end, 10);
    if (*end || value < low || value > high) {
        fprintf(stderr, "echo_load: %s=%s: give a number from %ld to %ld\n", what, text, low, high);
        exit(2);
    }
    return value;
}

int main(int argc, char **argv)
{
    if (argc != 5) {
        fprintf(stderr, "usage: echo_load PORT CONNECTIONS SIZE SECONDS\n");
        return 2;
    }
    uint16_t port = (uint16_t)in_range(argv[1], "PORT", 1, 65535);
    int count = (int)in_range(argv[2], "CONNECTIONS", 1, MAX_CONNECTIONS);
    size = (size_t)in_range(argv[3], "SIZE", 1, MAX_SIZE);
    double seconds = atof(argv[4]);
    if (!(seconds > 0 && seconds <= MAX_SECONDS)) {
        fprintf(stderr, "echo_load: SECONDS=%s: give more than 0 and at most %d\n", argv[4], MAX_SECONDS);
        return 2;
    }

    int epoll = epoll_create1(EPOLL_CLOEXEC);
    for (int i = 0; i < count; i++) {
        if (connect_one(epoll, &connections[i], port) != 0) {
            fprintf(stderr, "echo_load: connection %d to port %u: %s\n", i, port, strerror(errno));
            return 1;
        }
    }
    open_connections = count;

    for (int i = 0; i < count; i++)
        next_message(&connections[i]);

    struct epoll_event events[256];
    uint64_t now = now_ns(), warm = 0, end = now + GREETING_NS;
    while (now < end && open_connections > 0) {
        /* A server that stands still must not hold us longer than the time given. */
        int n = epoll_wait(epoll, events, 256, 50);
        if (n < 0 && errno != EINTR)
            return 1;
        for (int i = 0; i < n; i++)
            on_event(events[i].data.ptr);
        now = now_ns();
        if (phase == GREETING && greeted == open_connections) {
            phase = WARMING;
            warm = now + (uint64_t)(seconds * 1e8);
            end = warm + (uint64_t)(seconds * 1e9);
            for (int i = 0; i < count; i++)
                if (connections[i].fd >= 0)
                    next_message(&connections[i]);
        } else if (phase == WARMING && now >= warm) {
            phase = COUNTING;
            warm = now;
        }
    }
    if (now > end)
        end = now;
    /* A connection that is not served is an error, however well the others do. */
    for (int i = 0; i < count; i++)
        if (connections[i].fd >= 0 && connections[i].received < size &&
            now - connections[i].started > OVERDUE_NS)
            errors++;
    if (phase != COUNTING) {
        fprintf(stderr, "echo_load: only %d of %d connections had a reply in time\n", greeted, count);
        return 1;
    }
    double measured = (double)(end - warm) / 1e9;
    printf("{\"requests\": %llu, \"seconds\": %.6f, \"req_per_s\": %.1f, \"p50_us\": %.1f, "
           "\"p99_us\": %.1f, \"max_us\": %.1f, \"errors\": %llu}\n",
           (unsigned long long)requests, measured, (double)requests / measured,
           percentile_us(0.50), percentile_us(0.99), (double)slowest / 1000.0,
           (unsigned long long)errors);
    return 0;
}
