// AdamW's update of float32 weights in one pass over each: clipping, moments, decay and weight.
// modules/training/adamw.py calls it; torch.optim.AdamW (fused) is its plain twin, formula by formula.
#include "vectors.h"

// Rows of an embedding, by what the step has for them.
enum Row : uint8_t {
  ASLEEP,   // no gradient, both moments 0: all that is left of the update is the decay
  AWAKE,    // no gradient
  GRADIENT  // a gradient
};

struct Weight {
  float *p, *m, *v;
  const float* g;
  const uint8_t* kinds;  // of its rows; null: all have a gradient
  long rows, width;
  float size, root;  // lr / (1 - b1^t), sqrt(1 - b2^t)
};

namespace {

struct Rule {
  float scale, decay, b1, b2, eps;  // scale: of the gradients (clipping); decay: 1 - lr w

  void shrink(float* p, long n) const {
    for (long j = 0; j < n; j += 16) {
      __mmask16 some = first(n - j);
      store(p + j, _mm512_mul_ps(load(p + j, some), set(decay)), some);
    }
  }

  void update(const Weight& w, long at, bool gradient) const {
    for (long j = at; j < at + w.width; j += 16) {
      __mmask16 some = first(at + w.width - j);
      __m512 g = gradient ? _mm512_mul_ps(load(w.g + j, some), set(scale)) : set(0);
      __m512 m = load(w.m + j, some), v = _mm512_mul_ps(load(w.v + j, some), set(b2));
      m = _mm512_fmadd_ps(set(1.f - b1), _mm512_sub_ps(g, m), m);
      v = _mm512_fmadd_ps(set(1.f - b2), _mm512_mul_ps(g, g), v);
      __m512 below = _mm512_add_ps(_mm512_div_ps(_mm512_sqrt_ps(v), set(w.root)), set(eps));
      __m512 p = _mm512_mul_ps(load(w.p + j, some), set(decay));
      p = _mm512_fnmadd_ps(set(w.size), _mm512_div_ps(m, below), p);
      store(w.m + j, m, some), store(w.v + j, v, some), store(w.p + j, p, some);
    }
  }
};

}  // namespace

extern "C" void adamw(const Weight* weights, long count, float scale, float decay, float b1, float b2,
                      float eps) {
  Rule rule{scale, decay, b1, b2, eps};
  for (const Weight* w = weights; w < weights + count; w++) {
#pragma omp parallel for schedule(static) if (w->rows * w->width > 65536)
    for (long i = 0; i < w->rows; i++) {
      uint8_t kind = w->kinds ? w->kinds[i] : GRADIENT;
      if (kind != ASLEEP) rule.update(*w, i * w->width, kind == GRADIENT);
      else if (decay != 1.f) rule.shrink(w->p + i * w->width, w->width);
    }
  }
}
