/* SPDX-License-Identifier: Apache-2.0 */
/* Integer softmax, in the Q formats that the names carry: deploy/ops/softmax.py says what each step is.
 * The output may lie on the input: a value is read for the last time when its place is written. */
#include "kws_arithmetic.h"

/* exp(-2^k) for k = -2..4 */
static const int32_t exp_minus_powers_q31[7] = {1672461947, 1302514674, 790015084, 290630308, 39332535, 720401, 242};

/* x 2^left_shift, saturated to int32 */
static int32_t saturating_left_shift(int32_t x, int32_t left_shift)
{
    const int64_t wide = (int64_t)x * (INT64_C(1) << left_shift);
    return wide > INT32_MAX ? INT32_MAX : wide < INT32_MIN ? INT32_MIN : (int32_t)wide;
}

/* exp(x) for x in [-1/4, 0): the Taylor polynomial of degree 4 around -1/8 */
static int32_t exp_of_last_quarter_q31(int32_t x_q31)
{
    const int32_t exp_minus_eighth_q31 = 1895147668;
    const int32_t one_third_q31 = 715827883;
    const int32_t t_q31 = x_q31 + (INT32_C(1) << 28);
    const int32_t t2_q31 = kws_doubling_high_multiply(t_q31, t_q31);
    const int32_t t3_q31 = kws_doubling_high_multiply(t2_q31, t_q31);
    const int32_t t4_over_4_q31 = kws_round_half_away_shift(kws_doubling_high_multiply(t2_q31, t2_q31), 2);
    const int32_t tail_q31 = kws_round_half_away_shift(
        kws_doubling_high_multiply(t4_over_4_q31 + t3_q31, one_third_q31) + t2_q31, 1);
    return exp_minus_eighth_q31 + kws_doubling_high_multiply(t_q31 + tail_q31, exp_minus_eighth_q31);
}

/* exp(x), -32 < x <= 0 */
static int32_t exp_of_negative_q31(int32_t x_q26)
{
    const int32_t quarter_q26 = INT32_C(1) << 24;
    const int32_t fraction_q26 = (x_q26 & (quarter_q26 - 1)) - quarter_q26; /* [-1/4, 0) */
    const int32_t remainder_q26 = fraction_q26 - x_q26;                     /* a multiple of 1/4 */
    int32_t result_q31 = exp_of_last_quarter_q31(fraction_q26 * 32), k;
    if (x_q26 == 0)
        return INT32_MAX;
    for (k = 0; k < 7; k++)
        if (remainder_q26 >> (24 + k) & 1)
            result_q31 = kws_doubling_high_multiply(result_q31, exp_minus_powers_q31[k]);
    return result_q31;
}

/* 1 / (1 + x), 0 <= x < 1: three Newton-Raphson steps */
static int32_t reciprocal_of_one_plus_q31(int32_t x_q31)
{
    const int32_t half_denominator_q31 = (int32_t)(((int64_t)x_q31 + (INT64_C(1) << 31)) >> 1);
    int32_t inverse_q29 = 1515870810 + kws_doubling_high_multiply(half_denominator_q31, -1010580540), step;
    for (step = 0; step < 3; step++) {
        const int32_t error_q29 = (INT32_C(1) << 29) - kws_doubling_high_multiply(half_denominator_q31, inverse_q29);
        inverse_q29 += saturating_left_shift(kws_doubling_high_multiply(inverse_q29, error_q29), 2);
    }
    return saturating_left_shift(inverse_q29, 1);
}

/* exp(scaled difference) in Q0.31, 0 where it is too small to count */
static int32_t exp_q31(const kws_softmax_op *op, int32_t difference)
{
    if (difference < -((INT32_C(31) << 26) >> op->left_shift))
        return 0;
    return exp_of_negative_q31(
        kws_doubling_high_multiply((int32_t)((int64_t)difference * (INT64_C(1) << op->left_shift)), op->multiplier));
}

void kws_softmax(const void *op_, const int8_t *input, const int8_t *input2, int8_t *output, void *scratch)
{
    const kws_softmax_op *op = (const kws_softmax_op *)op_;
    int32_t row, i;
    (void)input2;
    (void)scratch;
    for (row = 0; row < op->rows; row++, input += op->classes, output += op->classes) {
        int32_t largest = -128, sum_q19 = 0, headroom = 0, reciprocal_q31;
        for (i = 0; i < op->classes; i++)
            largest = input[i] > largest ? input[i] : largest;
        for (i = 0; i < op->classes; i++) /* at most 511 of at most 2^19 */
            sum_q19 = kws_sum(sum_q19, kws_round_half_away_shift(exp_q31(op, input[i] - largest), 12));
        while ((uint32_t)sum_q19 << headroom < UINT32_C(1) << 31)
            headroom++; /* 4..12: the largest alone gives 2^19 */
        reciprocal_q31 = reciprocal_of_one_plus_q31((int32_t)(((uint32_t)sum_q19 << headroom) - (UINT32_C(1) << 31)));
        for (i = 0; i < op->classes; i++) {
            const int32_t q_q31 = kws_doubling_high_multiply(exp_q31(op, input[i] - largest), reciprocal_q31);
            output[i] = (int8_t)kws_clamp(kws_round_half_away_shift(q_q31, 35 - headroom) - 128, -128, 127);
        }
    }
}
