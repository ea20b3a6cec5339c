// Yogi: Adam whose second moment changes by at most the squared gradient's share, whatever its own size.
struct Yogi : DecayOfParameter {
    static constexpr const char* kName = "yogi";
    static constexpr const char* kHypers[] = {"lr", "betas.0", "betas.1", "eps", "weight_decay"};
    enum { kLr, kBeta1, kBeta2, kEps, kWeightDecay };
    static constexpr State kStates[] = {{"exp_avg", kSigned}, {"exp_avg_sq", kUnsigned}};

    template <class T>
    struct Constants {
        T shrink, keep1, take1, take2, unbias2, eps, lr;
    };
    template <class T>
    static Constants<T> derive(const double* h, std::uint64_t step, double*) {
        return {T(1.0 - h[kLr] * h[kWeightDecay]),
                T(h[kBeta1]),
                T(1.0 - h[kBeta1]),
                T(1.0 - h[kBeta2]),
                T(1.0 / (1.0 - power(h[kBeta2], step))),
                T(h[kEps]),
                T(h[kLr] / (1.0 - power(h[kBeta1], step)))};
    }

    template <class T, unsigned V>
    static void update(const Constants<T>& c, T& p, T g, T& m, T& v) {
        p = p * c.shrink;
        m = c.keep1 * m + c.take1 * g;
        const T square = g * g;
        v = v - c.take2 * (sign(v - square) * square);
        p = p - c.lr * (m / (root(v * c.unbias2) + c.eps));
    }
};
