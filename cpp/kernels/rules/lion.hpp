// Lion: the sign of an interpolated momentum.
struct Lion : DecayOfParameter {
    static constexpr const char* kName = "lion";
    static constexpr const char* kHypers[] = {"lr", "betas.0", "betas.1", "weight_decay"};
    enum { kLr, kBeta1, kBeta2, kWeightDecay };
    static constexpr State kStates[] = {{"exp_avg", kSigned}};

    template <class T>
    struct Constants {
        T shrink, keep1, take1, keep2, take2, lr;
    };
    template <class T>
    static Constants<T> derive(const double* h, std::uint64_t, double*) {
        return {T(1.0 - h[kLr] * h[kWeightDecay]),
                T(h[kBeta1]),
                T(1.0 - h[kBeta1]),
                T(h[kBeta2]),
                T(1.0 - h[kBeta2]),
                T(h[kLr])};
    }

    template <class T, unsigned V>
    static void update(const Constants<T>& c, T& p, T g, T& m) {
        p = p * c.shrink - c.lr * sign(c.keep1 * m + c.take1 * g);
        m = c.keep2 * m + c.take2 * g;
    }
};
