// The passes of a pre-norm GPT's training step, on the processors of vectors.h.
//
// modules/kernels/ops.py calls these; modules/model/gpt.py is their plain twin. Rows M are tokens,
// C features, N and K the sides of a weight (N, K). Every number has one owner and one order of
// summation: the same thread count gives the same bits.
#include "gemm.h"

namespace {

// The tanh form of GELU: x * sigmoid(u), u = 2 sqrt(2 / pi) (x + 0.044715 x^3).
struct Gelu {
  static vec gate(vec x, vec square) {
    constexpr float A = 1.5957691216f * -LOG2E, B = A * 0.044715f;
    vec u = x * (square * B + A);
    return inverse_stored(1.f + exp2_stored(least(u, set(100.f))));  // the sum stays finite
  }
  static vec value(vec x) { return x * gate(x, x * x); }
  static vec slope(vec x, vec* value) {
    vec square = x * x, s = gate(x, square);
    vec du = 1.5957691216f * (square * 0.134145f + 1.f);
    *value = x * s;
    return *value * (1.f - s) * du + s;
  }
};

struct Scaled {  // a normalised value times the norm's weight plus its bias
  const float *weight, *bias;
  long n;
  vec operator()(vec x, long j) const {
    mask m = first(n - j);
    return x * load(weight + j, m) + load(bias + j, m);
  }
};

// y = x W' with the sums handed to each(row, column, vector, mask).
template <class Each>
void product(const elem* x, long ld, const float* w, long m, long n, long k, Each each) {
  auto pack = [=](long p, long some, cell* b) { pack_columns(w + p * k, k, k, some, b); };
  for_panels(m, n, cells(k), pack, [=](long p, long count, long from, long to, const cell* b) {
    rows_by_panels(x, ld, from, to, b, count, k, [=](long i, long j, vec c) {
      each(i, p + j, c, first(n - p - j));
    });
  });
}

// dx = dy W with the sums handed to the functor that begins(first column) makes.
template <class Begins>
void product_back_by(const elem* dy, long ld, const float* w, long m, long n, long k, Begins begins) {
  auto pack = [=](long p, long some, cell* b) { pack_rows(w + p, k, n, some, b); };
  for_panels(m, k, cells(n), pack, [=](long p, long count, long from, long to, const cell* b) {
    rows_by_panels(dy, ld, from, to, b, count, n, begins(p));
  });
}

// The same with the sums handed to each(row, column, vector, mask).
template <class Each>
void product_back(const elem* dy, long ld, const float* w, long m, long n, long k, Each each) {
  product_back_by(dy, ld, w, m, n, k, [=](long p) {
    return [=](long i, long j, vec c) { each(i, p + j, c, first(k - p - j)); };
  });
}

// dw (n, k) = or += dy' f(x) over m rows, db = or += the column sums of dy.
template <class F>
void product_weight(const elem* dy, long ld, const elem* x, float* dw, float* db, long m, long n,
                    long k, bool add, F f) {
  constexpr long ROWS = 2048 / sizeof(elem);  // of which a strip lies about in the first-level cache
  if (db && !add) memset(db, 0, n * sizeof(float));
  for (; m > 0; m -= ROWS, dy += ROWS * ld, x += ROWS * k, add = true) {
    long rows = std::min(m, ROWS), blocks = (n + STRIP - 1) / STRIP, depth = cells(rows);
    cell* strips = scratch<cell>(2, blocks * depth * STRIP);
#pragma omp parallel for schedule(dynamic)
    for (long b = 0; b < blocks; b += STRIPS)
      pack_strips(dy, ld, rows, n, b, std::min(blocks, b + STRIPS), strips, db);
    auto pack = [=](long p, long some, cell* b) {
      pack_rows(x + p, k, rows, some, b, [=](vec v, long j) { return f(v, p + j); });
    };
    for_panels(n, k, depth, pack, [=](long p, long count, long from, long to, const cell* b) {
      strips_by_panels(strips, from, to, b, count, depth, Into{dw + p, k, k - p, add});
    });
  }
}

}  // namespace

extern "C" {

// Of what is multiplied; to be called first. 0: the system does not let this process multiply.
int element_bytes() { return allowed() ? sizeof(elem) : 0; }

const char* kind() { return KIND; }

void to_elements(const float* x, elem* y, long count) {
#pragma omp parallel for
  for (long i = 0; i < count; i += LANES) store(y + i, load(x + i, first(count - i)), first(count - i));
}

// y (M, N) = x (M, K) W' + bias
void linear(const elem* x, const float* w, const float* bias, elem* y, long m, long n, long k) {
  product(x, k, w, m, n, k, [=](long i, long j, vec c, mask some) {
    store(y + i * n + j, c + load(bias + j, some), some);
  });
}

// h = x W' + bias, g = gelu(h); g is of what h is stored as, for the way back sees only that
void linear_gelu(const elem* x, const float* w, const float* bias, elem* h, elem* g, long m, long n,
                 long k) {
  product(x, k, w, m, n, k, [=](long i, long j, vec c, mask some) {
    c = stored(c + load(bias + j, some));
    store(h + i * n + j, c, some);
    store(g + i * n + j, Gelu::value(c), some);
  });
}

// out (M, N) float32 = residual + x W' + bias
void linear_residual(const elem* x, const float* w, const float* bias, const float* residual,
                     float* out, long m, long n, long k) {
  product(x, k, w, m, n, k, [=](long i, long j, vec c, mask some) {
    c = c + load(bias + j, some);
    store(out + i * n + j, c + load(residual + i * n + j, some), some);
  });
}

// dx (M, K) = dy (M, N) W
void linear_input(const elem* dy, const float* w, elem* dx, long m, long n, long k) {
  product_back(dy, n, w, m, n, k, [=](long i, long j, vec c, mask some) {
    store(dx + i * k + j, c, some);
  });
}

// dh (M, K) = (dy W) gelu'(h), and g = gelu(h) again
void linear_input_gelu(const elem* dy, const float* w, const elem* h, elem* dh, elem* g, long m, long n,
                       long k) {
  product_back(dy, n, w, m, n, k, [=](long i, long j, vec c, mask some) {
    vec x = load(h + i * k + j, some), value;
    store(dh + i * k + j, c * Gelu::slope(x, &value), some);
    store(g + i * k + j, value, some);
  });
}

// dW (N, K) = or += dy' x and db = or += sum(dy)
void linear_weight(const elem* dy, const elem* x, float* dw, float* db, long m, long n, long k, int add) {
  product_weight(dy, n, x, dw, db, m, n, k, add, Same());
}

// The same where the map read x = normalised * weight + bias.
void linear_weight_norm(const elem* dy, const elem* normalised, const float* weight, const float* bias,
                        float* dw, float* db, long m, long n, long k, int add) {
  product_weight(dy, n, normalised, dw, db, m, n, k, add, Scaled{weight, bias, k});
}

// normalised = (x - mean) / deviation, y = normalised * weight + bias, scale = 1 / deviation
void layer_norm(const float* x, const float* weight, const float* bias, elem* y, elem* normalised,
                float* scale, long m, long c, float eps) {
#pragma omp parallel for schedule(dynamic, 16)
  for (long i = 0; i < m; i++) {
    const float* p = x + i * c;
    vec sum = set(0), squares = set(0);
    for (long j = 0; j < c; j += LANES) sum += load(p + j, first(c - j));
    float mean = sum_of(sum) / c;
    for (long j = 0; j < c; j += LANES) {
      vec d = only(first(c - j), load(p + j, first(c - j)) - mean);
      squares += d * d;
    }
    float r = scale[i] = 1.f / std::sqrt(sum_of(squares) / c + eps);
    for (long j = 0; j < c; j += LANES) {
      mask some = first(c - j);
      vec v = stored((load(p + j, some) - mean) * r);
      store(normalised + i * c + j, v, some);
      store(y + i * c + j, Scaled{weight, bias, c}(v, j), some);
    }
  }
}

// dx = dresidual + what dy (M, C) says of the input; dweight, dbias = or += their sums
void layer_norm_input(const elem* dy, const elem* normalised, const float* scale, const float* weight,
                      const float* dresidual, float* dx, float* dweight, float* dbias, long m, long c,
                      int add) {
  constexpr long PARTS = 16;
  long wide = (c + 15) / 16 * 16;
  float* parts = scratch<float>(3, 2 * PARTS * wide);
  memset(parts, 0, 2 * PARTS * wide * sizeof(float));
#pragma omp parallel for schedule(dynamic)
  for (long t = 0; t < PARTS; t++) {
    float *dw = parts + 2 * t * wide, *db = dw + wide;
    for (long i = m * t / PARTS; i < m * (t + 1) / PARTS; i++) {
      vec sum = set(0), along = set(0);
      for (long j = 0; j < c; j += LANES) {
        mask some = first(c - j);
        vec g = load(dy + i * c + j, some), x = load(normalised + i * c + j, some);
        store(dw + j, load(dw + j) + g * x);
        store(db + j, load(db + j) + g);
        vec gw = g * load(weight + j, some);
        sum += gw;
        along += gw * x;
      }
      float a = sum_of(sum) / c, b = sum_of(along) / c;
      for (long j = 0; j < c; j += LANES) {
        mask some = first(c - j);
        vec gw = load(dy + i * c + j, some) * load(weight + j, some);
        vec d = gw - (load(normalised + i * c + j, some) * b + a);
        store(dx + i * c + j, d * scale[i] + load(dresidual + i * c + j, some), some);
      }
    }
  }
  for (long j = 0; j < c; j += LANES) {
    mask some = first(c - j);
    vec w = add ? load(dweight + j, some) : set(0), b = add ? load(dbias + j, some) : set(0);
    for (long t = 0; t < PARTS; t++) {
      const float* part = parts + 2 * t * wide + j;
      w += load(part), b += load(part + wide);
    }
    store(dweight + j, w, some), store(dbias + j, b, some);
  }
}

// logits (M, N), `ld` values a row = x (M, K) W'
void head_logits(const elem* x, const float* w, elem* logits, long ld, long m, long n, long k) {
  product(x, k, w, m, n, k, [=](long i, long j, vec c, mask some) {
    store(logits + i * ld + j, c, some);
  });
}

// losses (M) = -log softmax(logits)[target]; logits become weight * (softmax - one-hot), 0 from n to ld
void cross_entropy(elem* logits, const int64_t* targets, const float* weights, float* losses, long ld,
                   long m, long n) {
#pragma omp parallel for schedule(dynamic, 16)
  for (long i = 0; i < m; i++) {
    elem* p = logits + i * ld;
    vec top_lanes = set(-1e30f), sum = set(0);
    for (long j = 0; j < n; j += LANES) {
      mask some = first(n - j);
      top_lanes = most(top_lanes, either(some, load(p + j, some), top_lanes));
    }
    float top = most_of(top_lanes) * LOG2E, target = load(p + targets[i], first(1))[0] * LOG2E;
    for (long j = 0; j < ld; j += LANES) {
      vec e = j < n ? only(first(n - j), exp2(load(p + j) * LOG2E - top)) : set(0);
      sum += e;
      store(p + j, e);
    }
    float lse = top + std::log2(sum_of(sum)), factor = std::exp2(top - lse) * weights[i];
    losses[i] = (lse - target) / LOG2E;
    for (long j = 0; j < n; j += LANES) store(p + j, load(p + j) * factor);
    float gradient = (std::exp2(target - lse) - 1.f) * weights[i];
    store(p + targets[i], set(gradient), first(1));
  }
}

// dx (M, K) float32 = dlogits (M, N) W, dW = or += dlogits' x; a slice of the vocabulary at a time,
// so that its part of dlogits is read from memory once
void head_back(const elem* dlogits, const elem* x, const float* w, float* dx, float* dw, long ld, long m,
               long n, long k, int add) {
  constexpr long SLICE = 2048;
  for (long v = 0; v < n; v += SLICE) {
    long some_rows = std::min(SLICE, n - v);
    product_back_by(dlogits + v, ld, w + v * k, m, some_rows, k, [=](long p) {
      return Into{dx + p, k, k - p, v > 0};
    });
    product_weight(dlogits + v, ld, x, dw + v * k, nullptr, m, some_rows, k, add, Same());
  }
}

}  // extern "C"
