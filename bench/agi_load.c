/* A FastAGI load generator that costs little: the exchanges of agi_load.py, of which mostly the kernel's share is left.
 *
 *     agi_load PORT TEMPLATE LATENCIES FIRST COUNT SECONDS CLIENTS RATE EXPECT
 *
 * TEMPLATE is a file with one request; {n}, {n%M}, {n+A} and {n%M+A} in it become numbers, n counting from FIRST.
 * Closed loop (RATE 0): CLIENTS exchanges are always under way. Open loop: RATE exchanges begin per second, whatever the
 * server does, at most CLIENTS at once; latency then counts from when an exchange was due. Both end after SECONDS or
 * COUNT exchanges, whichever is first. An answer without the text EXPECT is counted as unexpected.
 *
 * LATENCIES gets one float (ms, native byte order) for each answer; standard output gets one JSON object.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

enum {
    MAX_CLIENTS = 1000,
    MAX_COUNT = 5000000,
    MAX_SECONDS = 3600,
    MAX_TEMPLATE = 16384,
    MAX_PIECES = 64,
    MAX_ANSWER = 8192,
    MAX_ERRORS = 16,
    EVENTS = 256,
};
static const double EXCHANGE_TIMEOUT_S = 10.0, SWEEP_S = 0.5;
static const char REPLY[] = "200 result=0\n";

struct piece { /* text, then a number where mod is not -1 (0: not reduced) */
    const char *text;
    size_t length;
    long mod, add;
};

struct exchange {
    int fd, sent, answered;
    double due_s, began_s;
    char request[MAX_TEMPLATE], answer[MAX_ANSWER + 1];
    size_t length, received;
};

struct counted {
    char what[64];
    long times;
};

static struct piece pieces[MAX_PIECES];
static int piece_count;
static struct exchange *slots;
static int *idle, idle_count, under_way, poll_fd, timer_fd;
static struct sockaddr_in server;
static float *latencies;
static long first, most, begun, finished, answers, unexpected;
static int clients;
static double rate, started_s;
static const char *expected;
static struct counted errors[MAX_ERRORS];
static int error_count;

static void give_up(const char *what)
{
    fprintf(stderr, "agi_load: %s: %s\n", what, errno ? strerror(errno) : "cannot go on");
    exit(2);
}

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static void count_error(const char *what)
{
    for (int i = 0; i < error_count; i++)
        if (!strcmp(errors[i].what, what)) {
            errors[i].times++;
            return;
        }
    if (error_count < MAX_ERRORS) {
        snprintf(errors[error_count].what, sizeof errors[0].what, "%s", what);
        errors[error_count++].times = 1;
    }
}

/* Read "{n%M+A}" at `at`; its end, or NULL where there is none. */
static const char *read_token(const char *at, long *mod, long *add)
{
    char *end = (char *)at + 2;
    if (strncmp(at, "{n", 2))
        return NULL;
    *mod = *add = 0;
    if (*end == '%')
        *mod = strtol(end + 1, &end, 10);
    if (*end == '+')
        *add = strtol(end + 1, &end, 10);
    return *end == '}' && *mod >= 0 ? end + 1 : NULL;
}

static void read_template(const char *path)
{
    static char text[MAX_TEMPLATE + 1];
    FILE *file = fopen(path, "rb");
    if (!file)
        give_up(path);
    size_t length = fread(text, 1, MAX_TEMPLATE, file);
    fclose(file);
    const char *from = text, *at = text, *after;
    while (at < text + length) {
        long mod, add;
        if ((after = read_token(at, &mod, &add)) && piece_count < MAX_PIECES - 1) {
            pieces[piece_count++] = (struct piece){from, at - from, mod, add};
            from = at = after;
        } else {
            at++;
        }
    }
    pieces[piece_count++] = (struct piece){from, at - from, -1, 0};
}

static size_t make_request(char *into, long n)
{
    size_t length = 0;
    for (int i = 0; i < piece_count; i++) {
        const struct piece *piece = &pieces[i];
        if (length + piece->length + 24 > MAX_TEMPLATE)
            give_up("the request is too long");
        memcpy(into + length, piece->text, piece->length);
        length += piece->length;
        if (piece->mod >= 0)
            length += sprintf(into + length, "%ld", (piece->mod ? n % piece->mod : n) + piece->add);
    }
    return length;
}

static void finish(struct exchange *exchange, const char *error)
{
    close(exchange->fd); /* which takes it out of epoll too */
    exchange->fd = -1;
    idle[idle_count++] = exchange - slots;
    under_way--;
    finished++;
    if (error)
        count_error(error);
}

static void await(struct exchange *exchange, int operation, uint32_t what)
{
    struct epoll_event event = {.events = what, .data.ptr = exchange};
    if (epoll_ctl(poll_fd, operation, exchange->fd, &event))
        give_up("epoll_ctl");
}

static void send_request(struct exchange *exchange, int waited)
{
    ssize_t sent = send(exchange->fd, exchange->request, exchange->length, MSG_NOSIGNAL);
    if (sent == (ssize_t)exchange->length) {
        exchange->sent = 1;
        await(exchange, waited ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, EPOLLIN);
    } else if (sent < 0 && errno == EAGAIN) {
        if (!waited)
            await(exchange, EPOLL_CTL_ADD, EPOLLOUT); /* not connected yet */
    } else {
        finish(exchange, sent < 0 ? strerror(errno) : "the request did not fit into the socket buffer");
    }
}

static void begin(double due_s, double at_s)
{
    struct exchange *exchange = &slots[idle[--idle_count]];
    under_way++;
    exchange->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (exchange->fd < 0)
        give_up("socket");
    exchange->due_s = due_s;
    exchange->began_s = at_s;
    exchange->sent = exchange->answered = 0;
    exchange->received = 0;
    exchange->length = make_request(exchange->request, first + begun++);
    if (connect(exchange->fd, (struct sockaddr *)&server, sizeof server) && errno != EINPROGRESS)
        finish(exchange, strerror(errno));
    else
        send_request(exchange, 0); /* on loopback the connection is mostly there already */
}

static void take_answer(struct exchange *exchange)
{
    latencies[answers++] = (float)((now_s() - exchange->due_s) * 1e3);
    exchange->answered = 1;
    exchange->answer[exchange->received] = 0;
    if (*expected && !strstr(exchange->answer, expected))
        unexpected++;
    if (strncmp(exchange->answer, "failure", 7) && send(exchange->fd, REPLY, sizeof REPLY - 1, MSG_NOSIGNAL) < 0)
        finish(exchange, strerror(errno));
}

static void receive(struct exchange *exchange)
{
    while (exchange->fd >= 0) {
        ssize_t got = recv(exchange->fd, exchange->answer + exchange->received, MAX_ANSWER - exchange->received, 0);
        if (got < 0) {
            if (errno != EAGAIN)
                finish(exchange, strerror(errno));
            return;
        }
        if (got == 0)
            finish(exchange, exchange->answered ? NULL : "no answer");
        else if (exchange->answered)
            finish(exchange, "more than one line");
        else if ((exchange->received += got) == MAX_ANSWER)
            finish(exchange, "endless line");
        else if (exchange->answer[exchange->received - 1] == '\n')
            take_answer(exchange);
    }
}

/* Begin what is due; seconds until the next one is, or until somebody must look for exchanges that take too long. */
static double begin_due(double at_s)
{
    while (idle_count && begun < most) {
        double due_s = rate > 0 ? started_s + begun / rate : at_s;
        if (due_s > at_s)
            return due_s - at_s;
        begin(due_s, at_s);
    }
    return SWEEP_S;
}

static void sweep(double at_s)
{
    for (int i = 0; i < clients; i++)
        if (slots[i].fd >= 0 && at_s - slots[i].began_s > EXCHANGE_TIMEOUT_S)
            finish(&slots[i], "timeout");
}

/* epoll_wait counts in milliseconds, which would be taken for the server's latency: short waits end by a timer. */
static int wait_for_events(struct epoll_event *events, double wait_s)
{
    int wait_ms = (int)(wait_s * 1e3) + 1;
    if (rate > 0) {
        struct itimerspec when = {.it_value.tv_nsec = wait_s < 1e-6 ? 1000 : (long)(wait_s * 1e9)};
        if (timerfd_settime(timer_fd, 0, &when, NULL))
            give_up("timerfd_settime");
    }
    int ready = epoll_wait(poll_fd, events, EVENTS, wait_ms);
    if (ready < 0 && errno != EINTR)
        give_up("epoll_wait");
    return ready < 0 ? 0 : ready;
}

static void run(double seconds)
{
    struct epoll_event events[EVENTS];
    double sweep_s = (started_s = now_s()) + SWEEP_S, end_s = started_s + seconds;
    for (;;) {
        double at_s = now_s(), wait_s = SWEEP_S;
        int more = at_s < end_s && begun < most;
        if (more)
            wait_s = begin_due(at_s);
        if (!under_way && !more)
            return;
        if (wait_s > sweep_s - at_s)
            wait_s = sweep_s > at_s ? sweep_s - at_s : 0;
        int ready = wait_for_events(events, wait_s);
        for (int i = 0; i < ready; i++) {
            struct exchange *exchange = events[i].data.ptr;
            uint64_t rings;
            if (!exchange) {
                if (read(timer_fd, &rings, sizeof rings) < 0 && errno != EAGAIN)
                    give_up("timerfd");
            } else if (exchange->sent) {
                receive(exchange);
            } else {
                send_request(exchange, 1);
            }
        }
        if (at_s >= sweep_s) {
            sweep_s = at_s + SWEEP_S;
            sweep(at_s);
        }
    }
}

static void report(double wall_s)
{
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    double cpu_s = used.ru_utime.tv_sec + used.ru_stime.tv_sec + (used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6;
    printf("{\"begun\": %ld, \"count\": %ld, \"answers\": %ld, \"unexpected\": %ld, \"seconds\": %.6f, \"cpu_s\": %.6f",
           begun, finished, answers, unexpected, wall_s, cpu_s);
    printf(", \"errors\": {");
    for (int i = 0; i < error_count; i++)
        printf("%s\"%s\": %ld", i ? ", " : "", errors[i].what, errors[i].times);
    printf("}}\n");
}

static void prepare(char **argument)
{
    clients = atoi(argument[7]);
    first = atol(argument[4]);
    most = atol(argument[5]);
    rate = atof(argument[8]);
    expected = argument[9];
    if (clients < 1 || clients > MAX_CLIENTS || most < 1 || most > MAX_COUNT || rate < 0 || first < 0)
        give_up("clients, count, rate or first number out of bounds");
    server = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(argument[1]))};
    server.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    read_template(argument[2]);
    slots = calloc(clients, sizeof *slots);
    idle = calloc(clients, sizeof *idle);
    latencies = malloc(most * sizeof *latencies);
    poll_fd = epoll_create1(0);
    timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    if (!slots || !idle || !latencies || poll_fd < 0 || timer_fd < 0)
        give_up("setting up");
    for (int i = 0; i < clients; i++) {
        slots[i].fd = -1;
        idle[idle_count++] = i;
    }
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};
    if (epoll_ctl(poll_fd, EPOLL_CTL_ADD, timer_fd, &event))
        give_up("epoll_ctl");
}

int main(int count, char **argument)
{
    double seconds = count == 10 ? atof(argument[6]) : 0;
    if (seconds <= 0 || seconds > MAX_SECONDS) {
        fprintf(stderr, "usage: agi_load PORT TEMPLATE LATENCIES FIRST COUNT SECONDS CLIENTS RATE EXPECT\n");
        return 2;
    }
    prepare(argument);
    run(seconds);
    double wall_s = now_s() - started_s;
    FILE *file = fopen(argument[3], "wb");
    if (!file || fwrite(latencies, sizeof *latencies, answers, file) != (size_t)answers || fclose(file))
        give_up(argument[3]);
    report(wall_s);
    return 0;
}
