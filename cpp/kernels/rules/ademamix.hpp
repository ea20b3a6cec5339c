// AdEMAMix: AdamW with a second, slow first moment. Warm-up: alpha grows linearly, and 1 / ln(beta3) moves linearly
// from 1 / ln(beta1).
struct AdEMAMix : DecayOfParameter {
    static constexpr const char* kName = "ademamix";
    static constexpr const char* kHypers[] = {"lr",  "betas.0",      "betas.1",      "betas.2",     "alpha",
                                              "eps", "weight_decay", "alpha_warmup", "beta3_warmup"};
    enum { kLr, kBeta1, kBeta2, kBeta3, kAlpha, kEps, kWeightDecay, kAlphaWarmup, kBeta3Warmup };
    static constexpr State kStates[] = {{"exp_avg_fast", kSigned}, {"exp_avg_slow", kExact}, {"exp_avg_sq", kUnsigned}};

    static double beta3(const double* h, double step) {
        if (!(step < h[kBeta3Warmup] && h[kBeta1] < h[kBeta3])) return h[kBeta3];
        const double done = step / h[kBeta3Warmup];
        const double ratio = h[kBeta1] != 0.0 ? det_log(h[kBeta3]) / det_log(h[kBeta1]) : 0.0;
        return det_pow(h[kBeta3], 1.0 / ((1.0 - done) * ratio + done));
    }

    template <class T>
    struct Constants {
        T shrink, keep1, take1, keep2, take2, keep3, take3, unbias2, eps, fast, slow;
    };
    template <class T>
    static Constants<T> derive(const double* h, std::uint64_t step, double*) {
        const double now = static_cast<double>(step), slow = beta3(h, now);
        const double alpha = now < h[kAlphaWarmup] ? h[kAlpha] * (now / h[kAlphaWarmup]) : h[kAlpha];
        return {T(1.0 - h[kLr] * h[kWeightDecay]),
                T(h[kBeta1]),
                T(1.0 - h[kBeta1]),
                T(h[kBeta2]),
                T(1.0 - h[kBeta2]),
                T(slow),
                T(1.0 - slow),
                T(1.0 / (1.0 - power(h[kBeta2], step))),
                T(h[kEps]),
                T(h[kLr] / (1.0 - power(h[kBeta1], step))),
                T(h[kLr] * alpha)};
    }

    template <class T, unsigned V>
    static void update(const Constants<T>& c, T& p, T g, T& fast, T& slow, T& v) {
        p = p * c.shrink;
        fast = c.keep1 * fast + c.take1 * g;
        slow = c.keep3 * slow + c.take3 * g;
        v = c.keep2 * v + c.take2 * (g * g);
        p = p - (c.fast * fast + c.slow * slow) / (root(v * c.unbias2) + c.eps);
    }
};
