// The passes of a pre-norm GPT's training step, for processors with AVX512-BF16.
//
// modules/kernels/ops.py calls these; modules/model/gpt.py is their plain twin. Rows M are tokens,
// C features, N and K the sides of a weight (N, K). Every number has one owner and one order of
// summation: the same thread count gives the same bits.
#include "gemm.h"

namespace {

// The tanh form of GELU: x * sigmoid(u), u = 2 sqrt(2 / pi) (x + 0.044715 x^3).
struct Gelu {
  static __m512 gate(__m512 x, __m512 square) {
    __m512 u = _mm512_mul_ps(_mm512_mul_ps(x, set(1.5957691216f)),
                             _mm512_fmadd_ps(square, set(0.044715f), set(1.f)));
    __m512 power = _mm512_min_ps(_mm512_mul_ps(u, set(-LOG2E)), set(100.f));  // the sum stays finite
    __m512 sum = _mm512_add_ps(set(1.f), exp2(power)), r = _mm512_rcp14_ps(sum);
    return _mm512_mul_ps(r, _mm512_fnmadd_ps(sum, r, set(2.f)));  // one step of Newton's
  }
  static __m512 value(__m512 x) { return _mm512_mul_ps(x, gate(x, _mm512_mul_ps(x, x))); }
  static __m512 slope(__m512 x, __m512* value) {
    __m512 square = _mm512_mul_ps(x, x), s = gate(x, square);
    __m512 du = _mm512_mul_ps(set(1.5957691216f), _mm512_fmadd_ps(square, set(0.134145f), set(1.f)));
    *value = _mm512_mul_ps(x, s);
    return _mm512_fmadd_ps(_mm512_mul_ps(*value, _mm512_sub_ps(set(1.f), s)), du, s);
  }
};

struct Scaled {  // a normalised value times the norm's weight plus its bias
  const float *weight, *bias;
  long n;
  __m512 operator()(__m512 x, long j) const {
    __mmask16 m = first(n - j);
    return _mm512_fmadd_ps(x, load(weight + j, m), load(bias + j, m));
  }
};

// y = x W' with the sums handed to each(row, column, vector, mask).
template <class Each>
void product(const bf16* x, long ld, const float* w, long m, long n, long k, Each each) {
  auto pack = [=](long p, long some, pair* b) { pack_columns(w + p * k, k, k, some, b); };
  for_panels(m, n, k / 2, pack, [=](long p, long count, long from, long to, const pair* b) {
    rows_by_panels(x, ld, from, to, b, count, k / 2, [=](long i, long j, __m512 c) {
      each(i, p + j, c, first(n - p - j));
    });
  });
}

// dx = dy W with the sums handed to each(row, column, vector, mask).
template <class Each>
void product_back(const bf16* dy, long ld, const float* w, long m, long n, long k, Each each) {
  long pairs = (n + 1) / 2;
  auto pack = [=](long p, long some, pair* b) { pack_rows(w + p, k, n, some, b); };
  for_panels(m, k, pairs, pack, [=](long p, long count, long from, long to, const pair* b) {
    rows_by_panels(dy, ld, from, to, b, count, pairs, [=](long i, long j, __m512 c) {
      each(i, p + j, c, first(k - p - j));
    });
  });
}

// dw (n, k) = or += dy' f(x) over m rows, db = or += the column sums of dy.
template <class F>
void product_weight(const bf16* dy, long ld, const bf16* x, float* dw, float* db, long m, long n,
                    long k, bool add, F f) {
  constexpr long ROWS = 1024;  // of which a strip lies in the first-level cache
  if (db && !add) memset(db, 0, n * sizeof(float));
  for (; m > 0; m -= ROWS, dy += ROWS * ld, x += ROWS * k, add = true) {
    long rows = std::min(m, ROWS), blocks = (n + STRIP - 1) / STRIP, pairs = (rows + 1) / 2;
    pair* strips = scratch<pair>(2, blocks * pairs * STRIP);
#pragma omp parallel
    {
      long t = omp_get_num_threads(), id = omp_get_thread_num();
      pack_strips(dy, ld, rows, n, blocks * id / t, blocks * (id + 1) / t, strips, db);
    }
    auto pack = [=](long p, long some, pair* b) {
      pack_rows(x + p, k, rows, some, b, [=](__m512 v, long j) { return f(v, p + j); });
    };
    for_panels(n, k, pairs, pack, [=](long p, long count, long from, long to, const pair* b) {
      strips_by_panels(strips, from, to, b, count, pairs, [=](long i, long j, __m512 c) {
        __mmask16 some = first(k - p - j);
        float* to = dw + i * k + p + j;
        store(to, add ? _mm512_add_ps(c, load(to, some)) : c, some);
      });
    });
  }
}

}  // namespace

extern "C" {

void to_bf16(const float* x, bf16* y, long count) {
#pragma omp parallel for
  for (long i = 0; i < count; i += 16) store(y + i, load(x + i, first(count - i)), first(count - i));
}

// y (M, N) = x (M, K) W' + bias
void linear(const bf16* x, const float* w, const float* bias, bf16* y, long m, long n, long k) {
  product(x, k, w, m, n, k, [=](long i, long j, __m512 c, __mmask16 some) {
    store(y + i * n + j, _mm512_add_ps(c, load(bias + j, some)), some);
  });
}

// h = x W' + bias, g = gelu(h); g is of what h is stored as, for the way back sees only that
void linear_gelu(const bf16* x, const float* w, const float* bias, bf16* h, bf16* g, long m, long n,
                 long k) {
  product(x, k, w, m, n, k, [=](long i, long j, __m512 c, __mmask16 some) {
    c = widen(narrow(_mm512_add_ps(c, load(bias + j, some))));
    store(h + i * n + j, c, some);
    store(g + i * n + j, Gelu::value(c), some);
  });
}

// out (M, N) float32 = residual + x W' + bias
void linear_residual(const bf16* x, const float* w, const float* bias, const float* residual,
                     float* out, long m, long n, long k) {
  product(x, k, w, m, n, k, [=](long i, long j, __m512 c, __mmask16 some) {
    c = _mm512_add_ps(c, load(bias + j, some));
    store(out + i * n + j, _mm512_add_ps(c, load(residual + i * n + j, some)), some);
  });
}

// dx (M, K) = dy (M, N) W
void linear_input(const bf16* dy, const float* w, bf16* dx, long m, long n, long k) {
  product_back(dy, n, w, m, n, k, [=](long i, long j, __m512 c, __mmask16 some) {
    store(dx + i * k + j, c, some);
  });
}

// dh (M, K) = (dy W) gelu'(h), and g = gelu(h) again
void linear_input_gelu(const bf16* dy, const float* w, const bf16* h, bf16* dh, bf16* g, long m, long n,
                       long k) {
  product_back(dy, n, w, m, n, k, [=](long i, long j, __m512 c, __mmask16 some) {
    __m512 x = load(h + i * k + j, some), value;
    store(dh + i * k + j, _mm512_mul_ps(c, Gelu::slope(x, &value)), some);
    store(g + i * k + j, value, some);
  });
}

// dW (N, K) = or += dy' x and db = or += sum(dy)
void linear_weight(const bf16* dy, const bf16* x, float* dw, float* db, long m, long n, long k, int add) {
  product_weight(dy, n, x, dw, db, m, n, k, add, Same());
}

// The same where the map read x = normalised * weight + bias.
void linear_weight_norm(const bf16* dy, const bf16* normalised, const float* weight, const float* bias,
                        float* dw, float* db, long m, long n, long k, int add) {
  product_weight(dy, n, normalised, dw, db, m, n, k, add, Scaled{weight, bias, k});
}

// normalised = (x - mean) / deviation, y = normalised * weight + bias, scale = 1 / deviation
void layer_norm(const float* x, const float* weight, const float* bias, bf16* y, bf16* normalised,
                float* scale, long m, long c, float eps) {
#pragma omp parallel for
  for (long i = 0; i < m; i++) {
    const float* p = x + i * c;
    __m512 sum = set(0), squares = set(0);
    for (long j = 0; j < c; j += 16) sum = _mm512_add_ps(sum, load(p + j, first(c - j)));
    float mean = _mm512_reduce_add_ps(sum) / c;
    for (long j = 0; j < c; j += 16) {
      __m512 d = _mm512_maskz_sub_ps(first(c - j), load(p + j, first(c - j)), set(mean));
      squares = _mm512_fmadd_ps(d, d, squares);
    }
    float r = scale[i] = 1.f / std::sqrt(_mm512_reduce_add_ps(squares) / c + eps);
    for (long j = 0; j < c; j += 16) {
      __mmask16 some = first(c - j);
      __m512 v = widen(narrow(_mm512_mul_ps(_mm512_sub_ps(load(p + j, some), set(mean)), set(r))));
      store(normalised + i * c + j, v, some);
      store(y + i * c + j, Scaled{weight, bias, c}(v, j), some);
    }
  }
}

// dx = dresidual + what dy (M, C) says of the input; dweight, dbias = or += their sums
void layer_norm_input(const bf16* dy, const bf16* normalised, const float* scale, const float* weight,
                      const float* dresidual, float* dx, float* dweight, float* dbias, long m, long c,
                      int add) {
  int threads = omp_get_max_threads();
  long wide = (c + 15) / 16 * 16;
  float* parts = scratch<float>(3, 2L * threads * wide);
  memset(parts, 0, 2L * threads * wide * sizeof(float));
#pragma omp parallel for schedule(static, 1)
  for (int t = 0; t < threads; t++) {
    float *dw = parts + 2L * t * wide, *db = dw + wide;
    for (long i = m * t / threads; i < m * (t + 1) / threads; i++) {
      __m512 sum = set(0), along = set(0);
      for (long j = 0; j < c; j += 16) {
        __mmask16 some = first(c - j);
        __m512 g = load(dy + i * c + j, some), x = load(normalised + i * c + j, some);
        store(dw + j, _mm512_fmadd_ps(g, x, load(dw + j)));
        store(db + j, _mm512_add_ps(g, load(db + j)));
        __m512 gw = _mm512_mul_ps(g, load(weight + j, some));
        sum = _mm512_add_ps(sum, gw);
        along = _mm512_fmadd_ps(gw, x, along);
      }
      __m512 a = set(_mm512_reduce_add_ps(sum) / c), b = set(_mm512_reduce_add_ps(along) / c);
      for (long j = 0; j < c; j += 16) {
        __mmask16 some = first(c - j);
        __m512 gw = _mm512_mul_ps(load(dy + i * c + j, some), load(weight + j, some));
        __m512 d = _mm512_sub_ps(gw, _mm512_fmadd_ps(load(normalised + i * c + j, some), b, a));
        store(dx + i * c + j, _mm512_fmadd_ps(d, set(scale[i]), load(dresidual + i * c + j, some)), some);
      }
    }
  }
  for (long j = 0; j < c; j++) {
    float w = add ? dweight[j] : 0.f, b = add ? dbias[j] : 0.f;
    for (int t = 0; t < threads; t++) w += parts[2L * t * wide + j], b += parts[2L * t * wide + wide + j];
    dweight[j] = w, dbias[j] = b;
  }
}

// logits (M, N), `ld` values a row = x (M, K) W'
void head_logits(const bf16* x, const float* w, bf16* logits, long ld, long m, long n, long k) {
  product(x, k, w, m, n, k, [=](long i, long j, __m512 c, __mmask16 some) {
    store(logits + i * ld + j, c, some);
  });
}

// losses (M) = -log softmax(logits)[target]; logits become weight * (softmax - one-hot), 0 from n to ld
void cross_entropy(bf16* logits, const int64_t* targets, const float* weights, float* losses, long ld,
                   long m, long n) {
#pragma omp parallel for
  for (long i = 0; i < m; i++) {
    bf16* p = logits + i * ld;
    __m512 most = set(-1e30f), sum = set(0);
    for (long j = 0; j < n; j += 16) {
      __mmask16 some = first(n - j);
      most = _mm512_mask_max_ps(most, some, most, load(p + j, some));
    }
    float top = _mm512_reduce_max_ps(most) * LOG2E;
    for (long j = 0; j < n; j += 16) {
      __m512 e = exp2(_mm512_fmsub_ps(load(p + j, first(n - j)), set(LOG2E), set(top)));
      sum = _mm512_mask_add_ps(sum, first(n - j), sum, e);
    }
    float lse = top + std::log2(_mm512_reduce_add_ps(sum));
    float target = _mm512_cvtss_f32(load(p + targets[i], first(1))) * LOG2E;
    losses[i] = (lse - target) / LOG2E;
    for (long j = 0; j < ld; j += 16) {
      __m512 e = exp2(_mm512_fmsub_ps(load(p + j), set(LOG2E), set(lse)));
      store(p + j, _mm512_maskz_mul_ps(first(n - j), e, set(weights[i])));
    }
    float gradient = (std::exp2(target - lse) - 1.f) * weights[i];
    store(p + targets[i], set(gradient), first(1));
  }
}

// dx (M, K) float32 = dlogits (M, N) W, dW = or += dlogits' x; a slice of the vocabulary at a time,
// so that its part of dlogits is read from memory once
void head_back(const bf16* dlogits, const bf16* x, const float* w, float* dx, float* dw, long ld, long m,
               long n, long k, int add) {
  constexpr long SLICE = 2048;
  memset(dx, 0, m * k * sizeof(float));
  for (long v = 0; v < n; v += SLICE) {
    long some_rows = std::min(SLICE, n - v);
    product_back(dlogits + v, ld, w + v * k, m, some_rows, k, [=](long i, long j, __m512 c, __mmask16 some) {
      float* to = dx + i * k + j;
      store(to, _mm512_add_ps(c, load(to, some)), some);
    });
    product_weight(dlogits + v, ld, x, dw + v * k, nullptr, m, some_rows, k, add, Same());
  }
}

}  // extern "C"
