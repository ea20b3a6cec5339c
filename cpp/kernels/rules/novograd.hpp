// NovoGrad: momentum of gradients that are divided by a norm, averaged over the steps, of their whole tensor. The
// second moment is a number per tensor; it begins with the first gradient's.
struct NovoGrad : Elementwise {
    static constexpr const char* kName = "novograd";
    static constexpr const char* kHypers[] = {"lr", "betas.0", "betas.1", "eps", "weight_decay", "grad_averaging"};
    enum { kLr, kBeta1, kBeta2, kEps, kWeightDecay, kGradAveraging };
    static constexpr State kStates[] = {{"exp_avg", kSigned}};
    static constexpr int kScalars = 1;
    static constexpr const char* kScalarNames[] = {"exp_avg_sq"};
    static constexpr bool kNorms = true;
    static constexpr bool kNormParam = false;
    static constexpr unsigned kNormStates = 0;
    static constexpr int kSums = 1;

    template <class T>
    struct Constants {
        T inverse, decay, keep, take, lr;
    };
    template <class T>
    static Constants<T> derive(const double* h, std::uint64_t step, double*) {
        const bool averages = h[kGradAveraging] != 0.0 && step != 1;
        return {T(1.0), T(h[kWeightDecay]), T(h[kBeta1]), T(averages ? 1.0 - h[kBeta1] : 1.0), T(h[kLr])};
    }

    // First pass: the gradient, whose squares are summed.
    template <class T, unsigned V>
    static void direction(const Constants<T>&, T, T g, T, T& a, T&) {
        a = g;
    }
    template <class T>
    static void trust(Constants<T>& c, const double* h, std::uint64_t step, double* scalars, double sum, double) {
        const double square = step == 1 ? sum : h[kBeta2] * scalars[0] + (1.0 - h[kBeta2]) * sum;
        scalars[0] = square;
        c.inverse = T(1.0 / (std::sqrt(square) + h[kEps]));
    }

    // Second pass.
    template <class T, unsigned V>
    static void update(const Constants<T>& c, T& p, T g, T& m) {
        m = c.keep * m + c.take * (g * c.inverse + c.decay * p);
        p = p - c.lr * m;
    }
};
