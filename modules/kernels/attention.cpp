// Causal attention, forward and back, on the processors of vectors.h: softmax(q k' / sqrt(D)) v.
//
// One head of one sequence at a time, 64 queries (or, on the way back, 64 keys) in a block, so that
// scores live in the second-level cache and the upper triangle is never computed. Rows of any length
// lie one after another: qkv is (N, 3, H, D), o (N, H, D), lse (H, N) the base-2 logarithm of each
// query's softmax denominator. A row may be a prefix and branches that go on from it, each blind to
// the others: `branch` says for each position where in its row its own branch starts.
#include "gemm.h"

namespace {

constexpr long BLOCK = 64;  // whole panels, of either kind

long up(long n) { return (n + BLOCK - 1) / BLOCK * BLOCK; }

// x (T, D) as the rows of a product over positions: panels of cells(up(T)) rows each, zero past T.
void as_rows(const elem* x, long ld, long t, long d, cell* panels) {
  for (long p = 0; p < d; p += PANEL, panels += up(t) / PER * PANEL) {
    pack_rows(x + p, ld, t, std::min(PANEL, d - p), panels);
    memset(panels + cells(t) * PANEL, 0, (up(t) / PER - cells(t)) * PANEL * sizeof(cell));
  }
}

struct Shape {
  long t, heads, d, prefix;
  const int64_t* branch;  // null: no branches
  long row() const { return 3 * heads * d; }
  long out() const { return heads * d; }
  long own(long i) const { return branch ? branch[i] : 0; }
};

// The lanes from key j on that a query sees: up to its own, not the branches before its own.
mask visible(long j, long seen, long prefix, long own) {
  return first(seen - j) & ~(first(own - j) & ~first(prefix - j));
}

// Scores of query i against the keys before `end` become probabilities times their sum.
float soften(const float* scores, elem* p, long i, Shape s, long end, float scale, float* lse) {
  long seen = i + 1, own = s.own(i), plain = own ? 0 : seen / LANES * LANES;  // before it all lanes count
  vec top_lanes = set(-1e30f), sum = set(0);
  for (long j = 0; j < plain; j += LANES) top_lanes = most(top_lanes, load(scores + j));
  for (long j = plain; j < seen; j += LANES)
    top_lanes = most(top_lanes, either(visible(j, seen, s.prefix, own), load(scores + j), top_lanes));
  float top = most_of(top_lanes) * scale;
  auto power = [=](long j) { return exp2_stored(load(scores + j) * scale - top); };
  auto keep = [&](long j, vec e) { sum += e, store(p + j, e); };
  for (long j = 0; j < plain; j += LANES) keep(j, power(j));
  for (long j = plain; j < seen; j += LANES) keep(j, only(visible(j, seen, s.prefix, own), power(j)));
  for (long j = (seen + LANES - 1) / LANES * LANES; j < end; j += LANES) store(p + j, set(0));
  float total = sum_of(sum);
  *lse = top + std::log2(total);
  return 1.f / total;
}

void forward(const elem* q, elem* o, float* lse, Shape s) {
  const elem *k = q + s.out(), *v = k + s.out();
  long full = up(s.t), wide = up(s.d), key = cells(s.d) * PANEL, value = full / PER * PANEL;
  cell *keys = scratch<cell>(2, full / PANEL * key), *values = scratch<cell>(3, wide / PANEL * value);
  float *scores = scratch<float>(4, BLOCK * full), *sums = scratch<float>(5, BLOCK * wide);
  elem* p = scratch<elem>(6, BLOCK * full);
  pack_columns(k, s.row(), s.d, s.t, keys, full);
  as_rows(v, s.row(), s.t, s.d, values);
  for (long i = 0; i < s.t; i += BLOCK) {
    long m = std::min(BLOCK, s.t - i), end = i + BLOCK;
    float inverse[BLOCK];
    rows_by_panels(q + i * s.row(), s.row(), 0, m, keys, end / PANEL, s.d, Into{scores, full, full, false});
    for (long r = 0; r < m; r++)
      inverse[r] = soften(scores + r * full, p + r * full, i + r, s, end, LOG2E / std::sqrt((float)s.d), lse + i + r);
    for (long j = 0; j < s.d; j += PANEL)
      rows_by_panels(p, full, 0, m, values + j / PANEL * value, 1, end, Into{sums + j, wide, wide - j, false});
    for (long r = 0; r < m; r++)
      for (long j = 0; j < s.d; j += LANES)
        store(o + (i + r) * s.out() + j, load(sums + r * wide + j) * inverse[r], first(s.d - j));
  }
}

// One block of m keys, in transposed scores: p = probabilities, ds = gradient of scores. `until` is
// the first query (counted from the block's start) that is blind to a key again.
void transposed(const float* scores, const float* dp, const float* lse, const float* delta, elem* p,
                elem* ds, const long* until, long m, long n, float root) {
  for (long r = 0; r < m; r++, scores += n, dp += n, p += n, ds += n) {
    auto power = [=](long j) { return exp2_stored(load(scores + j) * (LOG2E * root) - load(lse + j)); };
    auto keep = [=](long j, vec e) {
      store(p + j, e);
      store(ds + j, e * (root * (load(dp + j) - load(delta + j))));
    };
    auto masked = [=](long j) { keep(j, only(first(until[r] - j) & ~first(r - j), power(j))); };
    long j = 0, whole = until[r] / LANES * LANES;
    for (; j + LANES <= r; j += LANES) store(p + j, set(0)), store(ds + j, set(0));  // it sees no later key
    if (j < r) masked(j), j += LANES;
    for (; j < whole; j += LANES) keep(j, power(j));
    for (; j < n; j += LANES) masked(j);
  }
}

// m rows of sums (ld wide) to memory.
void put(const float* sums, long wide, elem* to, long ld, long m, long d) {
  for (long r = 0; r < m; r++)
    for (long j = 0; j < d; j += LANES) store(to + r * ld + j, load(sums + r * wide + j), first(d - j));
}

// From key i on: the first query after it that sees it no more.
void ends_of(Shape s, long* until) {
  for (long i = s.t - 1; i >= 0; i--)
    until[i] = i < s.prefix || i + 1 == s.t ? s.t : s.own(i + 1) > i ? i + 1 : until[i + 1];
}

void backward(const elem* q, const elem* o, const elem* dout, const float* lse, elem* dq, Shape s) {
  const elem *k = q + s.out(), *v = k + s.out();
  elem *dk = dq + s.out(), *dv = dk + s.out();
  long full = up(s.t), wide = up(s.d), column = cells(s.d) * PANEL, row = full / PER * PANEL;
  long columns = full / PANEL * column, rows = wide / PANEL * row;
  float root = 1.f / std::sqrt((float)s.d);
  cell *q_columns = scratch<cell>(2, 2 * columns), *g_columns = q_columns + columns;
  cell *q_rows = scratch<cell>(3, 3 * rows), *g_rows = q_rows + rows, *k_rows = g_rows + rows;
  float *scores = scratch<float>(4, 2 * BLOCK * full), *dp = scores + BLOCK * full;
  float *dq_sums = scratch<float>(5, full * wide + BLOCK * wide), *sums = dq_sums + full * wide;
  elem *p = scratch<elem>(6, 2 * BLOCK * full), *ds = p + BLOCK * full;
  cell* strips = scratch<cell>(7, BLOCK / PER * (full + STRIP));
  float *delta = scratch<float>(8, 2 * full), *scale = delta + full;
  pack_columns(q, s.row(), s.d, s.t, q_columns, full);
  pack_columns(dout, s.out(), s.d, s.t, g_columns, full);
  as_rows(q, s.row(), s.t, s.d, q_rows);
  as_rows(dout, s.out(), s.t, s.d, g_rows);
  as_rows(k, s.row(), s.t, s.d, k_rows);
  memset(dq_sums, 0, full * wide * sizeof(float));
  for (long t = 0; t < full; t++) {
    vec sum = set(0);
    for (long j = 0; t < s.t && j < s.d; j += LANES) {
      long at = t * s.out() + j;
      sum += load(dout + at, first(s.d - j)) * load(o + at, first(s.d - j));
    }
    delta[t] = sum_of(sum);
    scale[t] = t < s.t ? lse[t] : 1e30f;  // no probability past the end
  }
  long *until = scratch<long>(9, s.t + BLOCK), *here = until + s.t;
  ends_of(s, until);
  for (long i = 0; i < s.t; i += BLOCK) {
    long m = std::min(BLOCK, s.t - i), n = 0;
    for (long r = 0; r < m; r++) n = std::max(n, here[r] = until[i + r] - i);
    n = up(n);
    long at = i / PANEL * column;
    rows_by_panels(k + i * s.row(), s.row(), 0, m, q_columns + at, n / PANEL, s.d, Into{scores, n, n, false});
    rows_by_panels(v + i * s.row(), s.row(), 0, m, g_columns + at, n / PANEL, s.d, Into{dp, n, n, false});
    transposed(scores, dp, scale + i, delta + i, p, ds, here, m, n, root);
    pack_strips(ds, n, m, n, 0, (n + STRIP - 1) / STRIP, strips, nullptr);
    for (long j = 0; j < s.d; j += PANEL) {
      long panel = j / PANEL * row + i / PER * PANEL;
      rows_by_panels(p, n, 0, m, g_rows + panel, 1, n, Into{sums + j, wide, wide - j, false});
      put(sums + j, wide, dv + i * s.row() + j, s.row(), m, std::min(PANEL, s.d - j));
      rows_by_panels(ds, n, 0, m, q_rows + panel, 1, n, Into{sums + j, wide, wide - j, false});
      put(sums + j, wide, dk + i * s.row() + j, s.row(), m, std::min(PANEL, s.d - j));
      strips_by_panels(strips, 0, n, k_rows + panel, 1, cells(m),
                       Into{dq_sums + i * wide + j, wide, wide - j, true});
    }
  }
  put(dq_sums, wide, dq, s.row(), s.t, s.d);
}

}  // namespace

extern "C" {

// `starts` (rows + 1) are the rows' places among the n positions, `prefix` (rows) how many of a row's
// first positions all of its branches see.
void attention(const elem* qkv, elem* o, float* lse, const int64_t* starts, const int64_t* prefix,
               const int64_t* branch, long rows, long n, long heads, long d) {
#pragma omp parallel for schedule(dynamic)
  for (long i = 0; i < rows * heads; i++) {
    Multiplier here;
    long row = i / heads, head = i % heads, at = starts[row];
    Shape s{starts[row + 1] - at, heads, d, prefix[row], branch ? branch + at : nullptr};
    forward(qkv + at * s.row() + head * d, o + at * s.out() + head * d, lse + head * n + at, s);
  }
}

void attention_back(const elem* qkv, const elem* o, const elem* dout, const float* lse, elem* dqkv,
                    const int64_t* starts, const int64_t* prefix, const int64_t* branch, long rows,
                    long n, long heads, long d) {
#pragma omp parallel for schedule(dynamic)
  for (long i = 0; i < rows * heads; i++) {
    Multiplier here;
    long row = i / heads, head = i % heads, at = starts[row];
    Shape s{starts[row + 1] - at, heads, d, prefix[row], branch ? branch + at : nullptr};
    long in = at * s.row() + head * d, out = at * s.out() + head * d;
    backward(qkv + in, o + out, dout + out, lse + head * n + at, dqkv + in, s);
  }
}

}  // extern "C"
