// Causal attention of a few queries, forward and back: for a model's last block where features are
// wanted at some positions alone. Rows, prefixes and branches are those of attention.cpp.
//
// q and o are (P, H, D), kv is (N, 2, H, D). `at` (P), rising, says which of the N positions each query
// is, `bounds` (rows + 1) which queries are in each row. One head of one row at a time.
#include "vectors.h"

namespace {

struct Row {
  long start, t, heads, d, prefix;
  const int64_t* branch;  // null: no branches
  long keys() const { return 2 * heads * d; }
  long out() const { return heads * d; }
};

float product(const elem* a, const elem* b, long d) {
  vec sum = set(0);
  for (long j = 0; j < d; j += LANES) sum += load(a + j, first(d - j)) * load(b + j, first(d - j));
  return sum_of(sum);
}

// to (D) += x * from
template <class T>
void add(float* to, float x, const T* from, long d) {
  for (long j = 0; j < d; j += LANES) {
    mask some = first(d - j);
    store(to + j, load(to + j, some) + load(from + j, some) * x, some);
  }
}

void put(const float* from, elem* to, long d) {
  for (long j = 0; j < d; j += LANES) store(to + j, load(from + j, first(d - j)), first(d - j));
}

// The probabilities p (i + 1) of query i of the row, 0 for keys that it does not see.
void soften(const elem* q, const elem* k, long i, Row r, float* p) {
  long own = r.branch ? r.branch[r.start + i] : 0;
  float scale = LOG2E / std::sqrt((float)r.d), top = -1e30f;
  for (long j = 0; j <= i; j++) {
    bool seen = j < r.prefix || j >= own;
    p[j] = seen ? product(q, k + j * r.keys(), r.d) * scale : -1e30f;
    top = std::max(top, p[j]);
  }
  vec sum = set(0);
  for (long j = 0; j <= i; j += LANES) {
    mask some = first(i + 1 - j);
    vec e = only(some, exp2(load(p + j, some) - top));
    sum += e;
    store(p + j, e, some);
  }
  float inverse = 1.f / sum_of(sum);
  for (long j = 0; j <= i; j++) p[j] *= inverse;
}

template <class Each>
void for_heads(const int64_t* starts, const int64_t* prefix, const int64_t* branch, long rows, long heads,
               long d, Each each) {
#pragma omp parallel for schedule(dynamic)
  for (long i = 0; i < rows * heads; i++) {
    long row = i / heads, start = starts[row];
    each(Row{start, starts[row + 1] - start, heads, d, prefix[row], branch}, row, i % heads * d);
  }
}

}  // namespace

extern "C" {

void attention_at(const elem* q, const elem* kv, elem* o, const int64_t* at, const int64_t* bounds,
                  const int64_t* starts, const int64_t* prefix, const int64_t* branch, long rows,
                  long heads, long d) {
  for_heads(starts, prefix, branch, rows, heads, d, [=](Row r, long row, long head) {
    const elem *k = kv + r.start * r.keys() + head, *v = k + r.out();
    float *p = scratch<float>(2, r.t), *sum = scratch<float>(3, d);
    for (long n = bounds[row]; n < bounds[row + 1]; n++) {
      long i = at[n] - r.start;
      soften(q + n * r.out() + head, k, i, r, p);
      memset(sum, 0, d * sizeof(float));
      for (long j = 0; j <= i; j++) add(sum, p[j], v + j * r.keys(), d);
      put(sum, o + n * r.out() + head, d);
    }
  });
}

void attention_at_back(const elem* q, const elem* kv, const elem* dout, elem* dq, elem* dkv,
                       const int64_t* at, const int64_t* bounds, const int64_t* starts,
                       const int64_t* prefix, const int64_t* branch, long rows, long heads, long d) {
  for_heads(starts, prefix, branch, rows, heads, d, [=](Row r, long row, long head) {
    const elem *k = kv + r.start * r.keys() + head, *v = k + r.out();
    float *p = scratch<float>(2, r.t), *dp = scratch<float>(3, r.t), *sum = scratch<float>(4, d);
    float *dk = scratch<float>(5, r.t * d), *dv = scratch<float>(6, r.t * d);
    memset(dk, 0, r.t * d * sizeof(float));
    memset(dv, 0, r.t * d * sizeof(float));
    for (long n = bounds[row]; n < bounds[row + 1]; n++) {
      long i = at[n] - r.start;
      const elem *query = q + n * r.out() + head, *g = dout + n * r.out() + head;
      soften(query, k, i, r, p);
      float delta = 0, root = 1.f / std::sqrt((float)d);
      for (long j = 0; j <= i; j++) delta += p[j] * (dp[j] = product(g, v + j * r.keys(), d));
      memset(sum, 0, d * sizeof(float));
      for (long j = 0; j <= i; j++) {
        float ds = p[j] * (dp[j] - delta) * root;
        add(sum, ds, k + j * r.keys(), d);
        add(dk + j * d, ds, query, d);
        add(dv + j * d, p[j], g, d);
      }
      put(sum, dq + n * r.out() + head, d);
    }
    elem* to = dkv + r.start * r.keys() + head;
    for (long j = 0; j < r.t; j++, to += r.keys()) put(dk + j * d, to, d), put(dv + j * d, to + r.out(), d);
  });
}

}  // extern "C"
