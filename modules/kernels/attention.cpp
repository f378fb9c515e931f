// Causal attention, forward and back, for processors with AVX512-BF16: softmax(q k' / sqrt(D)) v.
//
// One head of one sequence at a time, 64 queries (or, on the way back, 64 keys) in a block, so that
// scores live in the second-level cache and the upper triangle is never computed. Rows of any length
// lie one after another: qkv is (N, 3, H, D), o (N, H, D), lse (H, N) the base-2 logarithm of each
// query's softmax denominator. A row may be a prefix and branches that go on from it, each blind to
// the others: `branch` says for each position where in its row its own branch starts.
#include "gemm.h"

namespace {

constexpr long BLOCK = PANEL;

long up(long n) { return (n + BLOCK - 1) / BLOCK * BLOCK; }

// x (T, D) as the rows of a product over positions: panels of up(T) / 2 rows each, zero past T.
void as_rows(const bf16* x, long ld, long t, long d, pair* panels) {
  for (long p = 0; p < d; p += PANEL, panels += up(t) / 2 * PANEL) {
    pack_rows(x + p, ld, t, std::min(PANEL, d - p), panels);
    long rows = (t + 1) / 2;
    memset(panels + rows * PANEL, 0, (up(t) / 2 - rows) * PANEL * sizeof(pair));
  }
}

auto into(float* c, long ld) {
  return [=](long i, long j, __m512 x) { store(c + i * ld + j, x); };
}

struct Shape {
  long t, heads, d, prefix;
  const int64_t* branch;  // null: no branches
  long row() const { return 3 * heads * d; }
  long out() const { return heads * d; }
  long own(long i) const { return branch ? branch[i] : 0; }
};

// The lanes from key j on that a query sees: up to its own, not the branches before its own.
__mmask16 visible(long j, long seen, long prefix, long own) {
  return first(seen - j) & ~(first(own - j) & ~first(prefix - j));
}

// Scores of query i against the keys before `end` become probabilities times their sum.
float soften(const float* scores, bf16* p, long i, Shape s, long end, float scale, float* lse) {
  long seen = i + 1, own = s.own(i);
  __m512 most = set(-1e30f), sum = set(0);
  for (long j = 0; j < seen; j += 16)
    most = _mm512_mask_max_ps(most, visible(j, seen, s.prefix, own), most, load(scores + j));
  float top = _mm512_reduce_max_ps(most) * scale;
  for (long j = 0; j < end; j += 16) {
    __m512 e = exp2(_mm512_fmsub_ps(load(scores + j), set(scale), set(top)));
    e = _mm512_maskz_mov_ps(visible(j, seen, s.prefix, own), e);
    sum = _mm512_add_ps(sum, e);
    store(p + j, e);
  }
  float total = _mm512_reduce_add_ps(sum);
  *lse = top + std::log2(total);
  return 1.f / total;
}

void forward(const bf16* q, bf16* o, float* lse, Shape s) {
  const bf16 *k = q + s.out(), *v = k + s.out();
  long full = up(s.t), wide = up(s.d), key = s.d / 2 * PANEL, value = full / 2 * PANEL;
  pair *keys = scratch<pair>(2, full / PANEL * key), *values = scratch<pair>(3, wide / PANEL * value);
  float *scores = scratch<float>(4, BLOCK * full), *sums = scratch<float>(5, BLOCK * wide);
  bf16* p = scratch<bf16>(6, BLOCK * full);
  pack_columns(k, s.row(), s.d, s.t, keys);
  as_rows(v, s.row(), s.t, s.d, values);
  for (long i = 0; i < s.t; i += BLOCK) {
    long m = std::min(BLOCK, s.t - i), end = i + BLOCK;
    float inverse[BLOCK];
    rows_by_panels(q + i * s.row(), s.row(), 0, m, keys, end / PANEL, s.d / 2, into(scores, full));
    for (long r = 0; r < m; r++)
      inverse[r] = soften(scores + r * full, p + r * full, i + r, s, end, LOG2E / std::sqrt((float)s.d), lse + i + r);
    for (long j = 0; j < s.d; j += PANEL)
      rows_by_panels(p, full, 0, m, values + j / PANEL * value, 1, end / 2, into(sums + j, wide));
    for (long r = 0; r < m; r++)
      for (long j = 0; j < s.d; j += 16)
        store(o + (i + r) * s.out() + j, _mm512_mul_ps(set(inverse[r]), load(sums + r * wide + j)), first(s.d - j));
  }
}

// One block of m keys, in transposed scores: p = probabilities, ds = gradient of scores. `until` is
// the first query (counted from the block's start) that is blind to a key again.
void transposed(const float* scores, const float* dp, const float* lse, const float* delta, bf16* p,
                bf16* ds, const long* until, long m, long n, float root) {
  for (long r = 0; r < m; r++)
    for (long j = 0; j < n; j += 16) {
      long at = r * n + j;
      __m512 e = exp2(_mm512_fmsub_ps(load(scores + at), set(LOG2E * root), load(lse + j)));
      e = _mm512_maskz_mov_ps(first(until[r] - j) & ~first(r - j), e);  // a query sees no later key
      store(p + at, e);
      __m512 g = _mm512_mul_ps(set(root), _mm512_sub_ps(load(dp + at), load(delta + j)));
      store(ds + at, _mm512_mul_ps(e, g));
    }
}

// m rows of sums (ld wide) to bfloat16.
void put(const float* sums, long wide, bf16* to, long ld, long m, long d) {
  for (long r = 0; r < m; r++)
    for (long j = 0; j < d; j += 16) store(to + r * ld + j, load(sums + r * wide + j), first(d - j));
}

// From key i on: the first query after it that sees it no more.
void ends_of(Shape s, long* until) {
  for (long i = s.t - 1; i >= 0; i--)
    until[i] = i < s.prefix || i + 1 == s.t ? s.t : s.own(i + 1) > i ? i + 1 : until[i + 1];
}

void backward(const bf16* q, const bf16* o, const bf16* dout, const float* lse, bf16* dq, Shape s) {
  const bf16 *k = q + s.out(), *v = k + s.out();
  bf16 *dk = dq + s.out(), *dv = dk + s.out();
  long full = up(s.t), wide = up(s.d), column = s.d / 2 * PANEL, row = full / 2 * PANEL;
  long columns = full / PANEL * column, rows = wide / PANEL * row;
  float root = 1.f / std::sqrt((float)s.d);
  pair *q_columns = scratch<pair>(2, 2 * columns), *g_columns = q_columns + columns;
  pair *q_rows = scratch<pair>(3, 3 * rows), *g_rows = q_rows + rows, *k_rows = g_rows + rows;
  float *scores = scratch<float>(4, 2 * BLOCK * full), *dp = scores + BLOCK * full;
  float *dq_sums = scratch<float>(5, full * wide + BLOCK * wide), *sums = dq_sums + full * wide;
  bf16 *p = scratch<bf16>(6, 2 * BLOCK * full), *ds = p + BLOCK * full;
  pair* strips = scratch<pair>(7, BLOCK / 2 * full);
  float *delta = scratch<float>(8, 2 * full), *scale = delta + full;
  pack_columns(q, s.row(), s.d, s.t, q_columns);
  pack_columns(dout, s.out(), s.d, s.t, g_columns);
  as_rows(q, s.row(), s.t, s.d, q_rows);
  as_rows(dout, s.out(), s.t, s.d, g_rows);
  as_rows(k, s.row(), s.t, s.d, k_rows);
  memset(dq_sums, 0, full * wide * sizeof(float));
  for (long t = 0; t < full; t++) {
    __m512 sum = set(0);
    for (long j = 0; t < s.t && j < s.d; j += 16) {
      long at = t * s.out() + j;
      sum = _mm512_fmadd_ps(load(dout + at, first(s.d - j)), load(o + at, first(s.d - j)), sum);
    }
    delta[t] = _mm512_reduce_add_ps(sum);
    scale[t] = t < s.t ? lse[t] : 1e30f;  // no probability past the end
  }
  long *until = scratch<long>(9, s.t + BLOCK), *here = until + s.t;
  ends_of(s, until);
  for (long i = 0; i < s.t; i += BLOCK) {
    long m = std::min(BLOCK, s.t - i), n = 0;
    for (long r = 0; r < m; r++) n = std::max(n, here[r] = until[i + r] - i);
    n = up(n);
    long at = i / PANEL * column;
    rows_by_panels(k + i * s.row(), s.row(), 0, m, q_columns + at, n / PANEL, s.d / 2, into(scores, n));
    rows_by_panels(v + i * s.row(), s.row(), 0, m, g_columns + at, n / PANEL, s.d / 2, into(dp, n));
    transposed(scores, dp, scale + i, delta + i, p, ds, here, m, n, root);
    pack_strips(ds, n, m, n, 0, n / STRIP, strips, nullptr);
    for (long j = 0; j < s.d; j += PANEL) {
      long panel = j / PANEL * row + i / 2 * PANEL;
      rows_by_panels(p, n, 0, m, g_rows + panel, 1, n / 2, into(sums + j, wide));
      put(sums + j, wide, dv + i * s.row() + j, s.row(), m, std::min(PANEL, s.d - j));
      rows_by_panels(ds, n, 0, m, q_rows + panel, 1, n / 2, into(sums + j, wide));
      put(sums + j, wide, dk + i * s.row() + j, s.row(), m, std::min(PANEL, s.d - j));
      strips_by_panels(strips, 0, n, k_rows + panel, 1, (m + 1) / 2, [=](long r, long c, __m512 x) {
        float* to = dq_sums + (i + r) * wide + j + c;
        store(to, _mm512_add_ps(x, load(to)));
      });
    }
  }
  put(dq_sums, wide, dq, s.row(), s.t, s.d);
}

}  // namespace

extern "C" {

// `starts` (rows + 1) are the rows' places among the n positions, `prefix` (rows) how many of a row's
// first positions all of its branches see.
void attention(const bf16* qkv, bf16* o, float* lse, const int64_t* starts, const int64_t* prefix,
               const int64_t* branch, long rows, long n, long heads, long d) {
#pragma omp parallel for schedule(dynamic)
  for (long i = 0; i < rows * heads; i++) {
    long row = i / heads, head = i % heads, at = starts[row];
    Shape s{starts[row + 1] - at, heads, d, prefix[row], branch ? branch + at : nullptr};
    forward(qkv + at * s.row() + head * d, o + at * s.out() + head * d, lse + head * n + at, s);
  }
}

void attention_back(const bf16* qkv, const bf16* o, const bf16* dout, const float* lse, bf16* dqkv,
                    const int64_t* starts, const int64_t* prefix, const int64_t* branch, long rows,
                    long n, long heads, long d) {
#pragma omp parallel for schedule(dynamic)
  for (long i = 0; i < rows * heads; i++) {
    long row = i / heads, head = i % heads, at = starts[row];
    Shape s{starts[row + 1] - at, heads, d, prefix[row], branch ? branch + at : nullptr};
    long in = at * s.row() + head * d, out = at * s.out() + head * d;
    backward(qkv + in, o + out, dout + out, lse + head * n + at, dqkv + in, s);
  }
}

}  // extern "C"
