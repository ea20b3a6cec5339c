// Adam-mini: AdamW with one second moment for every block of a parameter.
//
// The engine advances the blocks' second moments before anything else (engine/factors.cpp): a block is a row of a
// matrix without means of columns. The rule sees 1 / (sqrt(v_hat) + eps) of its block in every element.
struct AdamMini : DecayOfParameter {
    static constexpr const char* kName = "adam_mini";
    // The number of blocks is settled when states are made.
    static constexpr const char* kHypers[] = {"lr", "betas.0", "betas.1", "eps", "weight_decay", "blocks"};
    enum { kLr, kBeta1, kBeta2, kEps, kWeightDecay };
    static constexpr State kStates[] = {{"exp_avg", kSigned}, {"exp_avg_sq", kExact}};
    static constexpr FactorStates kFactors{1, -1, 1};

    template <class T>
    static FactorWeights factors(const double* h, std::uint64_t step) {
        return {h[kBeta2], 1.0 - h[kBeta2], 0.0, 0.0, 1.0 / (1.0 - power(h[kBeta2], step)), h[kEps]};
    }

    template <class T>
    struct Constants {
        T shrink, keep, take, lr;
    };
    template <class T>
    static Constants<T> derive(const double* h, std::uint64_t step, double*) {
        return {T(1.0 - h[kLr] * h[kWeightDecay]), T(h[kBeta1]), T(1.0 - h[kBeta1]),
                T(h[kLr] / (1.0 - power(h[kBeta1], step)))};
    }

    template <class T, unsigned V>
    static void update(const Constants<T>& c, T& p, T g, T& m, T& inverse) {
        m = c.keep * m + c.take * g;
        p = p * c.shrink - c.lr * (m * inverse);
    }
};
