// libcublas: products of strided batches, columns first, summed in f32 (f64 for f64). A leading dimension
// that is too small, or a matrix that reaches outside its memory, is refused.
#include <cstdint>
#include <type_traits>
#include <vector>

#include "halves.h"
#include "memory.h"

namespace {
constexpr int OK = 0, INVALID_VALUE = 7, NOT_SUPPORTED = 15;
// Element types as cuBLAS numbers them, and a sum in f32, rounded or not.
constexpr int F32 = 0, F64 = 1, F16 = 2, BF16 = 14;
constexpr int SUM_F32 = 68, SUM_F64 = 70;

struct Matrix {
  const void *start;
  int type, leading;
  long long stride;
  bool turned;
};

size_t width(int type) { return type == F64 ? 8 : type == F32 ? 4 : 2; }

template <class S> S read(const void *start, int type, size_t at) {
  switch (type) {
  case F64: return ((const double *)start)[at];
  case F32: return ((const float *)start)[at];
  case F16: return (float)((const __half *)start)[at];
  default: return (float)((const __nv_bfloat16 *)start)[at];
  }
}

template <class S> void write(void *start, int type, size_t at, S x) {
  switch (type) {
  case F64: ((double *)start)[at] = x; break;
  case F32: ((float *)start)[at] = x; break;
  case F16: ((__half *)start)[at] = (float)x; break;
  default: ((__nv_bfloat16 *)start)[at] = (float)x;
  }
}

// Rows of `inner` numbers each, one after the other.
template <class S> std::vector<S> rows(const Matrix &matrix, size_t first, int count, int inner, bool rows_first) {
  std::vector<S> all((size_t)count * inner);
  for (int i = 0; i < count; i++)
    for (int l = 0; l < inner; l++) {
      size_t at = rows_first ? (size_t)i * matrix.leading + l : (size_t)l * matrix.leading + i;
      all[(size_t)i * inner + l] = read<S>(matrix.start, matrix.type, first + at);
    }
  return all;
}

template <class S>
int product(int m, int n, int k, S alpha, Matrix a, Matrix b, S beta, void *c, int c_type, int ldc, long long c_stride,
            int batch) {
  if (m < 0 || n < 0 || k < 0 || batch < 0) return INVALID_VALUE;
  if (m == 0 || n == 0 || batch == 0) return OK;
  int a_columns = a.turned ? m : k, b_columns = b.turned ? k : n;
  if (a.leading < (a.turned ? k : m) || b.leading < (b.turned ? n : k) || ldc < m) return INVALID_VALUE;
  auto bytes = [&](int type, long long stride, int leading, int columns, int rows) {
    return ((size_t)stride * (batch - 1) + (size_t)leading * (columns - 1) + rows) * width(type);
  };
  check_memory(a.start, bytes(a.type, a.stride, a.leading, a_columns, a.turned ? k : m), "product, left");
  check_memory(b.start, bytes(b.type, b.stride, b.leading, b_columns, b.turned ? n : k), "product, right");
  check_memory(c, bytes(c_type, c_stride, ldc, n, m), "product, result");
  for (int at = 0; at < batch; at++) {
    std::vector<S> left = rows<S>(a, (size_t)a.stride * at, m, k, a.turned);
    std::vector<S> right = rows<S>(b, (size_t)b.stride * at, n, k, !b.turned);
    for (int j = 0; j < n; j++)
      for (int i = 0; i < m; i++) {
        const S *x = &left[(size_t)i * k], *y = &right[(size_t)j * k];
        S sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int l = 0; l < k; l++) sum += x[l] * y[l];
        size_t place = (size_t)c_stride * at + (size_t)ldc * j + i;
        S old = beta == S(0) ? S(0) : beta * read<S>(c, c_type, place);
        write<S>(c, c_type, place, alpha * sum + old);
      }
  }
  return OK;
}
} // namespace

extern "C" {
int cublasCreate_v2(void **handle) { return *handle = (void *)5, OK; }
int cublasDestroy_v2(void *) { return OK; }
int cublasSetStream_v2(void *, void *) { return OK; }
int cublasSetMathMode(void *, int) { return OK; }
int cublasSetWorkspace_v2(void *, void *, size_t) { return OK; }

int cublasGemmStridedBatchedEx(void *, int turn_a, int turn_b, int m, int n, int k, const void *alpha, const void *a,
                               int a_type, int lda, long long a_stride, const void *b, int b_type, int ldb,
                               long long b_stride, const void *beta, void *c, int c_type, int ldc, long long c_stride,
                               int batch, int sum, int) {
  Matrix left{a, a_type, lda, a_stride, turn_a != 0}, right{b, b_type, ldb, b_stride, turn_b != 0};
  if (sum == SUM_F32)
    return product<float>(m, n, k, *(const float *)alpha, left, right, *(const float *)beta, c, c_type, ldc, c_stride,
                          batch);
  if (sum == SUM_F64)
    return product<double>(m, n, k, *(const double *)alpha, left, right, *(const double *)beta, c, c_type, ldc,
                           c_stride, batch);
  return NOT_SUPPORTED;
}
int cublasGemmEx(void *handle, int turn_a, int turn_b, int m, int n, int k, const void *alpha, const void *a, int a_type,
                 int lda, const void *b, int b_type, int ldb, const void *beta, void *c, int c_type, int ldc, int sum,
                 int algorithm) {
  return cublasGemmStridedBatchedEx(handle, turn_a, turn_b, m, n, k, alpha, a, a_type, lda, 0, b, b_type, ldb, 0, beta,
                                    c, c_type, ldc, 0, 1, sum, algorithm);
}
int cublasDgemmStridedBatched(void *handle, int turn_a, int turn_b, int m, int n, int k, const double *alpha,
                              const double *a, int lda, long long a_stride, const double *b, int ldb,
                              long long b_stride, const double *beta, double *c, int ldc, long long c_stride,
                              int batch) {
  return cublasGemmStridedBatchedEx(handle, turn_a, turn_b, m, n, k, alpha, a, F64, lda, a_stride, b, F64, ldb, b_stride,
                                    beta, c, F64, ldc, c_stride, batch, SUM_F64, 0);
}
}
