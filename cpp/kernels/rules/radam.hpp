// Rectified Adam, as torch.optim.RAdam: plain momentum until the variance of the second moment is tractable.
struct RAdam : Elementwise {
    static constexpr bool kCautious = true;
    static constexpr const char* kName = "radam";
    static constexpr const char* kHypers[] = {"lr",  "betas.0",      "betas.1",
                                              "eps", "weight_decay", "decoupled_weight_decay"};
    enum { kLr, kBeta1, kBeta2, kEps, kWeightDecay, kDecoupled };
    static constexpr State kStates[] = {{"exp_avg", kSigned}, {"exp_avg_sq", kUnsigned}};

    // How long the average behind the second moment is at this step, its limit, and whether that is enough (above 5).
    struct Length {
        double limit, now;
        bool enough;
    };
    static Length length(const double* h, std::uint64_t step) {
        const double faded = power(h[kBeta2], step);
        const double limit = 2.0 / (1.0 - h[kBeta2]) - 1.0;
        const double now = limit - 2.0 * static_cast<double>(step) * faded / (1.0 - faded);
        return {limit, now, now > 5.0};
    }

    enum : unsigned { kWithDecay = 1, kRectified = 2 };
    static constexpr unsigned kVariants = 4;
    static unsigned variant(const double* h, std::uint64_t step) {
        return (h[kWeightDecay] != 0.0 && h[kDecoupled] == 0.0 ? kWithDecay : 0u) |
               (length(h, step).enough ? kRectified : 0u);
    }
    template <class T>
    struct Constants {
        T shrink, decay, keep1, take1, keep2, take2, eps, lr;
    };
    template <class T>
    static Constants<T> derive(const double* h, std::uint64_t step, double*) {
        double lr = h[kLr] / (1.0 - power(h[kBeta1], step));
        const auto [limit, now, enough] = length(h, step);
        if (enough) {
            const double rectification = (now - 4.0) * (now - 2.0) * limit / ((limit - 4.0) * (limit - 2.0) * now);
            lr = lr * std::sqrt(rectification) * std::sqrt(1.0 - power(h[kBeta2], step));
        }
        return {T(h[kDecoupled] != 0.0 ? 1.0 - h[kLr] * h[kWeightDecay] : 1.0),
                T(h[kWeightDecay]),
                T(h[kBeta1]),
                T(1.0 - h[kBeta1]),
                T(h[kBeta2]),
                T(1.0 - h[kBeta2]),
                T(h[kEps]),
                T(lr)};
    }

    template <class T>
    static Decay decay(const Constants<T>& c, unsigned variant) {
        return {variant & kWithDecay ? c.decay : 0, c.shrink};
    }

    template <class T, unsigned V>
    static void update(const Constants<T>& c, T& p, T g, T& m, T& v) {
        p = p * c.shrink;
        if constexpr (V & kWithDecay) g = g + c.decay * p;
        m = c.keep1 * m + c.take1 * g;
        v = c.keep2 * v + c.take2 * (g * g);
        p = p - c.lr * (V & kRectified ? m / (root(v) + c.eps) : m);
    }
};
