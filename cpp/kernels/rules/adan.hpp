// Adan: Adam with a Nesterov momentum estimated from the differences of gradients. The first step has no difference.
struct Adan : Elementwise {
    static constexpr bool kCautious = true;
    static constexpr const char* kName = "adan";
    static constexpr const char* kHypers[] = {"lr", "betas.0", "betas.1", "betas.2", "eps", "weight_decay", "no_prox"};
    enum { kLr, kBeta1, kBeta2, kBeta3, kEps, kWeightDecay, kNoProx };
    static constexpr State kStates[] = {
        {"exp_avg", kSigned}, {"exp_avg_diff", kSigned}, {"exp_avg_sq", kUnsigned}, {"pre_grad", kSigned}};

    enum : unsigned { kFirst = 1 };
    static constexpr unsigned kVariants = 2;
    static unsigned variant(const double*, std::uint64_t step) { return step == 1 ? kFirst : 0u; }
    template <class T>
    struct Constants {
        T keep1, take1, keep2, take2, keep3, take3, unbias3, eps, along, across, before, after;
    };
    template <class T>
    static Constants<T> derive(const double* h, std::uint64_t step, double*) {
        const double decay = h[kLr] * h[kWeightDecay];
        return {T(h[kBeta1]),
                T(1.0 - h[kBeta1]),
                T(h[kBeta2]),
                T(1.0 - h[kBeta2]),
                T(h[kBeta3]),
                T(1.0 - h[kBeta3]),
                T(1.0 / (1.0 - power(h[kBeta3], step))),
                T(h[kEps]),
                T(h[kLr] / (1.0 - power(h[kBeta1], step))),
                T(h[kLr] * h[kBeta2] / (1.0 - power(h[kBeta2], step))),
                T(h[kNoProx] != 0.0 ? 1.0 - decay : 1.0),
                T(h[kNoProx] != 0.0 ? 1.0 : 1.0 / (1.0 + decay))};
    }

    template <class T>
    static Decay decay(const Constants<T>& c, unsigned) {
        return {0, c.before * c.after};  // one of the two is 1
    }

    template <class T, unsigned V>
    static void update(const Constants<T>& c, T& p, T g, T& m, T& v, T& n, T& previous) {
        const T change = V & kFirst ? T{} : g - previous;
        previous = g;
        m = c.keep1 * m + c.take1 * g;
        v = c.keep2 * v + c.take2 * change;
        const T ahead = g + c.keep2 * change;
        n = c.keep3 * n + c.take3 * (ahead * ahead);
        const T along = c.along * m + c.across * v;
        p = (p * c.before - along / (root(n * c.unbias3) + c.eps)) * c.after;
    }
};
