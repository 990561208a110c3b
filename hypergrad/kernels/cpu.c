/* A step with a learned alpha on a CPU, for one element type (-DREAL=float or double), in two passes over memory:
 *
 *   products_*   <g, d_{t-1}> of each tensor, d = u + lambda theta; on the way the direction's state moves to u_t
 *   move         theta <- theta - alpha (u_t + lambda theta)
 *   traced_*     the same with a trace z in the place of d_{t-1}, and what a step held to the size of theta needs
 *   move_traced_*   move, and z <- keep z + s (u_t + lambda theta)
 *   step_*       products and move, with the report's rate rules between them, for models so small that calls are what takes time
 *
 * A tensor may stack members along its first axis, with sums and an alpha of their own; below, each is a *row*, tensors
 * first. Every row is cut into blocks of one size. One thread sums a block, in float64, and a row's blocks are added in
 * their order: a sum depends neither on the number of threads nor on who was faster.
 */

#include <stdint.h>
#include <stdlib.h>
#include <tgmath.h>

enum { BLOCK = 16384, BLOCKS_PER_THREAD = 2 };

/* The operands of a step. kernels/cpu_interface.py states the layouts of Call and Rule too. Pointers are to one entry per
 * tensor, or NULL. */
typedef struct {
    int64_t tensors;
    int64_t members;      /* of each tensor */
    const int64_t *sizes; /* of a member, in elements */
    REAL *const *theta;
    const REAL *const *grad;
    REAL *const *direction; /* u of SGD and Nesterov momentum */
    REAL *const *first;     /* v of momentum, m of Adam */
    REAL *const *second;    /* v of Adam */
    float *const *step;     /* Adam's t */
    REAL *const *trace;     /* z, where there is one; SGD and Nesterov momentum then keep no direction */
    double momentum, beta1, beta2, eps;
    double weight_decay; /* coupled */
    double sign;         /* of the gradient: -1 to maximize */
    int64_t threads;
} Call;

/* Adam's u = m / (sqrt(v) * scale + shift), bias corrections included. */
typedef struct {
    REAL scale, shift;
} Correction;

/* How alpha is learned. Arrays have one entry per alpha, the rule's state ("released") one per tensor. */
typedef struct {
    int64_t kind;        /* 0 SGD, 1 SGDN, 2 Adam */
    int64_t granularity; /* 0 group, 1 tensor, 2 released */
    REAL *alpha;
    REAL *h;
    REAL *first;  /* v of SGDN, m of Adam */
    REAL *second; /* v of Adam */
    REAL *step;   /* Adam's t */
    double learning_rate, beta1, beta2, eps; /* beta1: mu of SGDN */
} Rule;

/* <g, d>, and where they are asked for <g, g> and <d, d>. With a trace d is z; then <theta, theta> and <e, e> as well,
 * e = u_t + lambda theta. */
typedef struct {
    double dot, g_square, d_square, theta_square, e_square;
} Sums;

/* One walk over all blocks. */
typedef struct Pass Pass;
struct Pass {
    const Call *call;
    Sums (*visit)(const Pass *, int64_t tensor, int64_t row, int64_t from, int64_t to); /* elements [from, to) */
    Sums *sums;              /* products: of each block */
    const REAL *decays;      /* products: lambda of each tensor, or NULL */
    const REAL *alpha;       /* move: of each row if stride is 1, of all if 0 */
    int64_t stride;
    REAL decay;              /* move, and traced: lambda */
    const REAL *keep;        /* move: what the trace is multiplied with, as alpha; NULL without */
    REAL schedule;           /* move: what the trace takes of e */
    REAL *const *along;      /* move: u of each tensor, but for Adam */
    Correction *corrections; /* Adam: of each tensor */
    int64_t blocks;
};

/* ---- Threads ---- */

/* The pool that torch runs on, handed over by build.py: a second pool would fight with it for the cores, and linking to
 * an OpenMP library by name may find another one. Without it everything runs on the caller's thread. */
typedef void Parallel(void (*body)(void *), void *data, unsigned threads, unsigned flags);
static Parallel *parallel;
static int (*thread_number)(void), (*team_size)(void);

void use_openmp(Parallel *gomp_parallel, int (*omp_get_thread_num)(void), int (*omp_get_num_threads)(void))
{
    parallel = gomp_parallel;
    thread_number = omp_get_thread_num;
    team_size = omp_get_num_threads;
}

static int64_t blocks_of(int64_t size) { return (size + BLOCK - 1) / BLOCK; }

/* Blocks first to last - 1. The second pass begins where the first one ended, with what is still in the cache. */
static void visit_run(const Pass *pass, int64_t first, int64_t last)
{
    const int64_t *sizes = pass->call->sizes, members = pass->call->members;
    int64_t tensor = 0, start = 0; /* the tensor of block `index`, and the number of that tensor's first block */
    for (int64_t done = 0; done < last - first; done++) {
        int64_t index = pass->sums ? first + done : last - 1 - done;
        while (index >= start + members * blocks_of(sizes[tensor]))
            start += members * blocks_of(sizes[tensor++]);
        while (index < start)
            start -= members * blocks_of(sizes[--tensor]);
        int64_t member = (index - start) / blocks_of(sizes[tensor]);
        int64_t from = (index - start) % blocks_of(sizes[tensor]) * BLOCK;
        int64_t to = from + BLOCK < sizes[tensor] ? from + BLOCK : sizes[tensor];
        int64_t origin = member * sizes[tensor];
        Sums sums = pass->visit(pass, tensor, tensor * members + member, origin + from, origin + to);
        if (pass->sums)
            pass->sums[index] = sums;
    }
}

/* A thread's part is one run of neighbouring blocks, the same in both passes of a step. */
static void visit_part(void *data)
{
    const Pass *pass = data;
    int64_t thread = thread_number(), team = team_size();
    visit_run(pass, pass->blocks * thread / team, pass->blocks * (thread + 1) / team);
}

static void visit_all(Pass *pass)
{
    /* To wake a thread for less work than this takes longer than the work. */
    int64_t useful = (pass->blocks + BLOCKS_PER_THREAD - 1) / BLOCKS_PER_THREAD;
    int64_t threads = pass->call->threads < useful ? pass->call->threads : useful;
    if (parallel && threads > 1)
        parallel(visit_part, pass, (unsigned)threads, 0);
    else
        visit_run(pass, 0, pass->blocks);
}

/* ---- Passes ---- */

/* Run a first pass, which leaves `columns` (1, 3 or 5) products of each row in `products` and counts the step, or a
 * second one, where `products` is NULL. Returns 1 if there is no memory, and has then done nothing. */
static int run(Pass pass, REAL *products, int columns)
{
    const Call *call = pass.call;
    for (int64_t t = 0; t < call->tensors; t++)
        pass.blocks += call->members * blocks_of(call->sizes[t]);
    if (products)
        pass.sums = malloc((pass.blocks + 1) * sizeof *pass.sums);
    if (call->step)
        pass.corrections = malloc((call->tensors + 1) * sizeof *pass.corrections);
    int failed = (products && !pass.sums) || (call->step && !pass.corrections);
    if (!failed) {
        for (int64_t t = 0; call->step && t < call->tensors; t++) {
            /* A first pass with a trace works with u_t, not u_{t-1}. */
            double step = *call->step[t] + (products && columns == 5);
            double first = 1 - pow(call->beta1, step), second = 1 - pow(call->beta2, step);
            /* At step 0, m = 0, and any shift but 0 makes u = 0. */
            pass.corrections[t].scale = step ? first / sqrt(second) : 1;
            pass.corrections[t].shift = step ? first * call->eps : 1;
        }
        visit_all(&pass);
        const Sums *next = pass.sums;
        for (int64_t row = 0; products && row < call->tensors * call->members; row++) {
            Sums sums = {0};
            for (int64_t left = blocks_of(call->sizes[row / call->members]); left > 0; left--, next++) {
                sums.dot += next->dot;
                sums.g_square += next->g_square;
                sums.d_square += next->d_square;
                sums.theta_square += next->theta_square;
                sums.e_square += next->e_square;
            }
            products[row * columns] = sums.dot;
            if (columns >= 3) {
                products[row * columns + 1] = sums.g_square;
                products[row * columns + 2] = sums.d_square;
            }
            if (columns == 5) {
                products[row * columns + 3] = sums.theta_square;
                products[row * columns + 4] = sums.e_square;
            }
        }
        for (int64_t t = 0; products && call->step && t < call->tensors; t++)
            *call->step[t] += 1;
    }
    free(pass.sums);
    free(pass.corrections);
    return failed;
}

/* The loops over elements. Each is compiled for every use: with weight decay or without (`coupled`), and with all that d
 * and the norms need or without (`full`). Only with one of them is theta read. A choice inside a loop keeps compilers
 * from vectorizing it. */
#define ELEMENTS const Pass *pass, int64_t tensor, int64_t row, int64_t from, int64_t to
#define BEGIN                                                                                                           \
    const Call *call = pass->call;                                                                                      \
    const REAL *restrict grad = call->grad[tensor];                                                                     \
    const REAL *restrict theta = call->theta[tensor];                                                                   \
    const REAL sign = call->sign, weight_decay = call->weight_decay;                                                    \
    const REAL decay = pass->decays ? pass->decays[tensor] : 0;                                                         \
    double dot = 0, g_square = 0, d_square = 0;
#define GRADIENT(i) (coupled ? sign * grad[i] + weight_decay * theta[i] : sign * grad[i])
#define ADD_PRODUCTS(i, g, u)                                                                                           \
    {                                                                                                                   \
        REAL d = full ? u + decay * theta[i] : u;                                                                       \
        dot += (double)g * (double)d;                                                                                   \
        if (full) {                                                                                                     \
            g_square += (double)g * (double)g;                                                                          \
            d_square += (double)d * (double)d;                                                                          \
        }                                                                                                               \
    }
#define END return (Sums){.dot = dot, .g_square = g_square, .d_square = d_square};
#define INLINE static inline __attribute__((always_inline))

/* u <- g */
INLINE Sums sgd(ELEMENTS, int coupled, int full)
{
    BEGIN
    REAL *restrict u = call->direction[tensor];
#pragma omp simd reduction(+ : dot, g_square, d_square)
    for (int64_t i = from; i < to; i++) {
        REAL g = GRADIENT(i);
        ADD_PRODUCTS(i, g, u[i])
        u[i] = g;
    }
    END
}

/* v <- mu v + g; u <- g + mu v */
INLINE Sums nesterov(ELEMENTS, int coupled, int full)
{
    BEGIN
    REAL *restrict u = call->direction[tensor];
    REAL *restrict v = call->first[tensor];
    const REAL mu = call->momentum;
#pragma omp simd reduction(+ : dot, g_square, d_square)
    for (int64_t i = from; i < to; i++) {
        REAL g = GRADIENT(i);
        ADD_PRODUCTS(i, g, u[i])
        v[i] = mu * v[i] + g;
        u[i] = g + mu * v[i];
    }
    END
}

/* v <- mu v + g, which is u */
INLINE Sums heavy_ball(ELEMENTS, int coupled, int full)
{
    BEGIN
    REAL *restrict v = call->first[tensor];
    const REAL mu = call->momentum;
#pragma omp simd reduction(+ : dot, g_square, d_square)
    for (int64_t i = from; i < to; i++) {
        REAL g = GRADIENT(i);
        ADD_PRODUCTS(i, g, v[i])
        v[i] = mu * v[i] + g;
    }
    END
}

/* u_{t-1} comes back from m and v; then m <- m + (1 - beta1) (g - m), v <- beta2 v + (1 - beta2) g^2 */
INLINE Sums adam(ELEMENTS, int coupled, int full)
{
    BEGIN
    REAL *restrict m = call->first[tensor];
    REAL *restrict v = call->second[tensor];
    const REAL scale = pass->corrections[tensor].scale, shift = pass->corrections[tensor].shift;
    const REAL weight1 = 1 - call->beta1, beta2 = call->beta2, weight2 = 1 - call->beta2;
#pragma omp simd reduction(+ : dot, g_square, d_square)
    for (int64_t i = from; i < to; i++) {
        REAL g = GRADIENT(i);
        REAL u = m[i] / (sqrt(v[i]) * scale + shift);
        ADD_PRODUCTS(i, g, u)
        m[i] += weight1 * (g - m[i]);
        v[i] = beta2 * v[i] + weight2 * g * g;
    }
    END
}

/* `columns` 1: <g, d>; 3: <g, g> and <d, d> as well. */
#define PRODUCTS(op)                                                                                                    \
    static Sums op##_plain(ELEMENTS) { return op(pass, tensor, row, from, to, 0, 0); }                                       \
    static Sums op##_full(ELEMENTS) { return op(pass, tensor, row, from, to, 0, 1); }                                        \
    static Sums op##_coupled(ELEMENTS) { return op(pass, tensor, row, from, to, 1, 0); }                                     \
    static Sums op##_coupled_full(ELEMENTS) { return op(pass, tensor, row, from, to, 1, 1); }                                \
    int products_##op(const Call *call, const REAL *decays, REAL *products, int64_t columns)                            \
    {                                                                                                                   \
        int full = decays || columns == 3;                                                                              \
        Pass pass = {.call = call, .decays = decays};                                                                   \
        if (call->weight_decay)                                                                                         \
            pass.visit = full ? op##_coupled_full : op##_coupled;                                                       \
        else                                                                                                            \
            pass.visit = full ? op##_full : op##_plain;                                                                 \
        return run(pass, products, columns);                                                                            \
    }

PRODUCTS(sgd)
PRODUCTS(nesterov)
PRODUCTS(heavy_ball)
PRODUCTS(adam)

/* With a trace: z takes the place of u_{t-1}, and theta is always read. */
#define BEGIN_TRACED                                                                                                    \
    BEGIN                                                                                                               \
    const REAL *restrict z = call->trace[tensor];                                                                       \
    const REAL lambda = pass->decay;                                                                                    \
    double theta_square = 0, e_square = 0;                                                                              \
    (void)decay;
#define ADD_TRACED(i, g, u)                                                                                             \
    {                                                                                                                   \
        REAL e = u + lambda * theta[i];                                                                                 \
        dot += (double)g * (double)z[i];                                                                                \
        g_square += (double)g * (double)g;                                                                              \
        d_square += (double)z[i] * (double)z[i];                                                                        \
        theta_square += (double)theta[i] * (double)theta[i];                                                            \
        e_square += (double)e * (double)e;                                                                              \
    }
#define END_TRACED return (Sums){dot, g_square, d_square, theta_square, e_square};
#define TRACED_LOOP                                                                                                     \
    _Pragma("omp simd reduction(+ : dot, g_square, d_square, theta_square, e_square)") for (int64_t i = from; i < to; i++)

INLINE Sums sgd_traced(ELEMENTS, int coupled)
{
    BEGIN_TRACED
    TRACED_LOOP
    {
        REAL g = GRADIENT(i);
        ADD_TRACED(i, g, g)
    }
    END_TRACED
}

INLINE Sums nesterov_traced(ELEMENTS, int coupled)
{
    BEGIN_TRACED
    REAL *restrict v = call->first[tensor];
    const REAL mu = call->momentum;
    TRACED_LOOP
    {
        REAL g = GRADIENT(i);
        REAL next = mu * v[i] + g;
        REAL u = g + mu * next;
        ADD_TRACED(i, g, u)
        v[i] = next;
    }
    END_TRACED
}

INLINE Sums heavy_ball_traced(ELEMENTS, int coupled)
{
    BEGIN_TRACED
    REAL *restrict v = call->first[tensor];
    const REAL mu = call->momentum;
    TRACED_LOOP
    {
        REAL g = GRADIENT(i);
        REAL u = mu * v[i] + g;
        ADD_TRACED(i, g, u)
        v[i] = u;
    }
    END_TRACED
}

/* The corrections are those of the step now taken, since u is. */
INLINE Sums adam_traced(ELEMENTS, int coupled)
{
    BEGIN_TRACED
    REAL *restrict m = call->first[tensor];
    REAL *restrict v = call->second[tensor];
    const REAL scale = pass->corrections[tensor].scale, shift = pass->corrections[tensor].shift;
    const REAL weight1 = 1 - call->beta1, beta2 = call->beta2, weight2 = 1 - call->beta2;
    TRACED_LOOP
    {
        REAL g = GRADIENT(i);
        REAL first = m[i] + weight1 * (g - m[i]);
        REAL second = beta2 * v[i] + weight2 * g * g;
        REAL u = first / (sqrt(second) * scale + shift);
        ADD_TRACED(i, g, u)
        m[i] = first;
        v[i] = second;
    }
    END_TRACED
}

/* Five products of each row; `decay` is lambda of e. */
#define TRACED(op)                                                                                                      \
    static Sums op##_traced_plain(ELEMENTS) { return op##_traced(pass, tensor, row, from, to, 0); }                     \
    static Sums op##_traced_coupled(ELEMENTS) { return op##_traced(pass, tensor, row, from, to, 1); }                   \
    int traced_##op(const Call *call, double decay, REAL *products)                                                     \
    {                                                                                                                   \
        Pass pass = {.call = call, .decay = decay};                                                                     \
        pass.visit = call->weight_decay ? op##_traced_coupled : op##_traced_plain;                                      \
        return run(pass, products, 5);                                                                                  \
    }

TRACED(sgd)
TRACED(nesterov)
TRACED(heavy_ball)
TRACED(adam)

/* ---- Moves ---- */

INLINE Sums move_stored(ELEMENTS, int decoupled)
{
    REAL *restrict theta = pass->call->theta[tensor];
    const REAL *restrict u = pass->along[tensor];
    const REAL alpha = pass->alpha[row * pass->stride], decay = pass->decay;
#pragma omp simd
    for (int64_t i = from; i < to; i++)
        theta[i] -= alpha * (decoupled ? u[i] + decay * theta[i] : u[i]);
    return (Sums){0};
}

INLINE Sums move_rebuilt(ELEMENTS, int decoupled)
{
    REAL *restrict theta = pass->call->theta[tensor];
    const REAL *restrict m = pass->call->first[tensor];
    const REAL *restrict v = pass->call->second[tensor];
    const REAL scale = pass->corrections[tensor].scale, shift = pass->corrections[tensor].shift;
    const REAL alpha = pass->alpha[row * pass->stride], decay = pass->decay;
#pragma omp simd
    for (int64_t i = from; i < to; i++) {
        REAL u = m[i] / (sqrt(v[i]) * scale + shift);
        theta[i] -= alpha * (decoupled ? u + decay * theta[i] : u);
    }
    return (Sums){0};
}

static Sums stored_plain(ELEMENTS) { return move_stored(pass, tensor, row, from, to, 0); }
static Sums stored_decoupled(ELEMENTS) { return move_stored(pass, tensor, row, from, to, 1); }
static Sums rebuilt_plain(ELEMENTS) { return move_rebuilt(pass, tensor, row, from, to, 0); }
static Sums rebuilt_decoupled(ELEMENTS) { return move_rebuilt(pass, tensor, row, from, to, 1); }

/* z <- keep z + s e and theta <- theta - alpha e, e = u + lambda theta, with u from what the first pass left. */
#define MOVE_TRACED(op, U)                                                                                              \
    INLINE Sums op##_moved(ELEMENTS, int coupled)                                                                       \
    {                                                                                                                   \
        const Call *call = pass->call;                                                                                  \
        REAL *restrict theta = call->theta[tensor];                                                                     \
        REAL *restrict z = call->trace[tensor];                                                                         \
        const REAL *restrict grad = call->grad[tensor];                                                                 \
        const REAL *restrict m = call->first ? call->first[tensor] : NULL;                                              \
        const REAL *restrict v = call->second ? call->second[tensor] : NULL;                                            \
        const REAL sign = call->sign, weight_decay = call->weight_decay, mu = call->momentum, decay = pass->decay;      \
        const REAL scale = pass->corrections ? pass->corrections[tensor].scale : 0;                                     \
        const REAL shift = pass->corrections ? pass->corrections[tensor].shift : 0;                                     \
        const REAL alpha = pass->alpha[row * pass->stride], keep = pass->keep[row * pass->stride];                      \
        const REAL schedule = pass->schedule;                                                                           \
        (void)grad, (void)m, (void)v, (void)sign, (void)weight_decay, (void)mu, (void)scale, (void)shift;               \
        _Pragma("omp simd") for (int64_t i = from; i < to; i++)                                                         \
        {                                                                                                               \
            REAL e = (U) + decay * theta[i];                                                                            \
            z[i] = keep * z[i] + schedule * e;                                                                          \
            theta[i] -= alpha * e;                                                                                      \
        }                                                                                                               \
        return (Sums){0};                                                                                               \
    }                                                                                                                   \
    static Sums op##_moved_plain(ELEMENTS) { return op##_moved(pass, tensor, row, from, to, 0); }                       \
    static Sums op##_moved_coupled(ELEMENTS) { return op##_moved(pass, tensor, row, from, to, 1); }                     \
    int move_traced_##op(const Call *call, const REAL *alpha, const REAL *keep, int64_t stride, double decay,           \
                         double schedule)                                                                               \
    {                                                                                                                   \
        Pass pass = {                                                                                                   \
            .call = call, .alpha = alpha, .keep = keep, .stride = stride, .decay = decay, .schedule = schedule};        \
        pass.visit = call->weight_decay ? op##_moved_coupled : op##_moved_plain;                                        \
        return run(pass, NULL, 0);                                                                                      \
    }

MOVE_TRACED(sgd, GRADIENT(i))
MOVE_TRACED(nesterov, GRADIENT(i) + mu * m[i])
MOVE_TRACED(heavy_ball, m[i])
MOVE_TRACED(adam, m[i] / (sqrt(v[i]) * scale + shift))

/* `alpha` of each row if stride is 1, of all if 0. */
int move(const Call *call, const REAL *alpha, int64_t stride, double decay)
{
    Pass pass = {.call = call, .alpha = alpha, .stride = stride, .decay = decay};
    pass.along = call->direction ? call->direction : call->first;
    if (call->step)
        pass.visit = decay ? rebuilt_decoupled : rebuilt_plain;
    else
        pass.visit = decay ? stored_decoupled : stored_plain;
    return run(pass, NULL, 0);
}

/* ---- Whole steps, of tensors without members ---- */

/* What an alpha moves along: the rule of rates.py, with the i-th entry of its state. */
static double ruled(const Rule *rule, double h, int64_t i)
{
    if (rule->kind == 1) {
        rule->first[i] = rule->beta1 * rule->first[i] + h;
        return h + rule->beta1 * rule->first[i];
    }
    if (rule->kind == 2) {
        double step = rule->step[i] += 1;
        rule->first[i] += (1 - rule->beta1) * (h - rule->first[i]);
        rule->second[i] = rule->beta2 * rule->second[i] + (1 - rule->beta2) * h * h;
        double square = rule->second[i] / (1 - pow(rule->beta2, step));
        return rule->first[i] / (1 - pow(rule->beta1, step)) / (sqrt(square) + rule->eps);
    }
    return h;
}

static int step(const Call *call, const Rule *rule,
                int (*products)(const Call *, const REAL *decays, REAL *products, int64_t columns))
{
    int64_t tensors = call->tensors;
    REAL *own = malloc(tensors * sizeof *own), *path = malloc(tensors * sizeof *path);
    int failed = !own || !path || products(call, NULL, own, 1);
    if (!failed) {
        double total = 0;
        for (int64_t t = 0; t < tensors; t++) {
            total -= own[t];
            if (rule->granularity) {
                REAL *alpha = rule->alpha + (rule->granularity == 1 ? t : 0);
                path[t] = *alpha -= rule->learning_rate * ruled(rule, -own[t], t);
            }
            if (rule->granularity == 1)
                rule->h[t] = -own[t];
        }
        if (rule->granularity != 1)
            *rule->h = total;
        if (!rule->granularity)
            *rule->alpha -= rule->learning_rate * ruled(rule, *rule->h, 0);
        failed = rule->granularity ? move(call, path, 1, 0) : move(call, rule->alpha, 0, 0);
    }
    free(own);
    free(path);
    return failed;
}

int step_sgd(const Call *call, const Rule *rule) { return step(call, rule, products_sgd); }
int step_nesterov(const Call *call, const Rule *rule) { return step(call, rule, products_nesterov); }
int step_heavy_ball(const Call *call, const Rule *rule) { return step(call, rule, products_heavy_ball); }
int step_adam(const Call *call, const Rule *rule) { return step(call, rule, products_adam); }
